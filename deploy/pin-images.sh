#!/bin/sh
# Pins every image of the Dockerfile and the compose file to the digest that its tag has now (`make pin-images`).
#
#   IMAGE:TAG  ─▶  IMAGE:TAG@sha256:…      the tag stays readable, the digest decides
#
# The digest is that of the list of platforms, so the same line works on each of them. Run it again to take newer images:
# a pinned image is resolved by its tag, then test and commit the change. Needs docker with buildx, and the network.
set -eu
cd "$(dirname "$0")/.."
[ "$#" -gt 0 ] || set -- Dockerfile docker-compose.yml
for file in "$@"; do
    images=$(sed -n -e 's/^FROM \([^ ]*\).*/\1/p' -e 's/^ *image: *\([^ #]*\).*/\1/p' "$file" | sort -u)
    for image in $images; do
        tagged=${image%%@*}
        case $tagged in
            scratch | *'$'*) continue ;; # nothing, or an image that is built here
        esac
        digest=$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$tagged")
        case $digest in
            sha256:????????????????????????????????????????????????????????????????) ;;
            *) echo "$tagged: docker gave no digest" >&2; exit 1 ;;
        esac
        pattern=$(printf '%s' "$image" | sed 's/[.[\*^$/]/\\&/g')
        sed -i -e "s#^FROM $pattern\( \|\$\)#FROM $tagged@$digest\1#" \
            -e "s#^\( *image: *\)$pattern\( \|\$\)#\1$tagged@$digest\2#" "$file"
        echo "$file: $tagged@$digest"
    done
done
