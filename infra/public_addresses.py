"""Which network addresses are public: the only ones that a URL from outside may lead to."""

import ipaddress

_SPECIAL = tuple(
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",  # a cloud's host agent, on an address that looks public
        "192.0.0.0/24",  # protocol assignments, a cloud's metadata among them
    )
)


def is_public(address: str) -> bool:
    """False for private, loopback, link-local, multicast, reserved and metadata addresses, and for IPv6 addresses
    that carry an IPv4 address (mapped, compatible, 6to4, NAT64, Teredo), whose path ends somewhere else."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and (found.ipv4_mapped or found.sixtofour or found.is_site_local):
        return False
    if not found.is_global or found.is_multicast or found.is_reserved or found.is_unspecified:
        return False
    return not any(found.version == network.version and found in network for network in _SPECIAL)
