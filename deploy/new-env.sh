#!/bin/sh
# Writes the secrets of docker-compose.yml, all random, to .env or the file that is named. An existing file stays as it is.
# WEBHOOK_SECRET is random too: replace it by the signing secret of your endpoint in Stripe's dashboard.
# A file with another name is for a second system. It gets a config, ports and a file of feed secrets of its own.
set -eu
umask 077
file=${1:-.env}
if [ -e "$file" ]; then
    echo "$file exists: remove it first; its passwords are those of the database's volume" >&2
    exit 1
fi
own=${file%.env}
case $own in /* | ./*) ;; *) own=./$own ;; esac
config=$own.toml
random() { od -An -vtx1 -N "$1" /dev/urandom | tr -d ' \n'; }
{
    for name in POSTGRES OWNER GATEWAY WORKER DISPATCHER SCHEDULER CONSOLE ANALYTICS OPERATOR; do
        echo "${name}_PASSWORD=$(random 24)"
    done
    echo "LINK_SECRET=$(random 32)"
    echo "WEBHOOK_SECRET=whsec_$(random 24)"
    echo "STRIPE_API_KEY="
    echo "PORTAL_API_KEY="
    echo "PAYLOADS_URL="
    if [ "$file" != .env ]; then
        echo "GATEWAY_PORT=8081"
        echo "CONSOLE_PORT=8901"
        echo "MAILPIT_PORT=8026"
        echo "BILLING_CONFIG_FILE=$config"
        echo "FEED_ENV=$own.feed.env"
    fi
} > "$file"
if [ "$file" != .env ] && [ ! -e "$config" ]; then
    cp "$(dirname "$0")/../config.example.toml" "$config"
    chmod 0644 "$config"   # the user of the containers reads it: keep secrets out of it
fi
