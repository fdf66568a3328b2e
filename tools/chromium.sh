#!/bin/sh
# Find a Chromium for the tests of the built pages; install it from the system's packages where that is allowed.
for name in "$CHROMIUM" chromium chromium-browser google-chrome; do
    [ -n "$name" ] && command -v "$name" > /dev/null && exit 0
done

if command -v apt-get > /dev/null; then
    if [ "$(id -u)" = 0 ]; then
        as_root=
    elif sudo -n true 2> /dev/null; then
        as_root="sudo -n"
    else
        as_root=no
    fi
    if [ "$as_root" != no ]; then
        echo "Installing Chromium from the system's packages"
        export DEBIAN_FRONTEND=noninteractive
        $as_root apt-get update -qq < /dev/null > /dev/null \
            && $as_root apt-get install -qq -y --no-install-recommends chromium < /dev/null > /dev/null \
            && exit 0
    fi
fi

echo "No Chromium found and none could be installed: the browser part of the tests will NOT run." >&2
echo "Install one (Debian, Ubuntu: apt-get install chromium) or set CHROMIUM=/path/to/it." >&2
exit 0
