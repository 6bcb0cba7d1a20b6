"""A registered model behind HTTP: Ray Serve replicas that answer in batches, and one door before them that lets in
nothing it does not know. Only `infra.ray` connects to Ray; only `flows` knows the command."""
