#!/bin/sh
# Run a command with the secrets of this container: each file of the folder becomes the variable of its name. So they
# stand neither in the compose file nor in what `docker inspect` shows. An empty file sets nothing.
set -eu
for file in "${FROSTLINE_SECRETS_DIR:-/run/secrets}"/*; do
    name=${file##*/}
    case $name in
        *[!A-Z0-9_]*) ;; # a file for a program that reads it itself; also the pattern, where there is no folder
        *) [ ! -s "$file" ] || { value=$(cat "$file"); export "$name=$value"; } ;;
    esac
done
exec "$@"
