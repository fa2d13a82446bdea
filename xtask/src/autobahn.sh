#!/bin/bash
# Puts the Autobahn WebSocket test suite into a folder of its own: autobahn.sh DIRECTORY
#
# The suite runs on Python 2 only, which no supported Debian has any more. So the interpreter comes out of Debian 11's
# packages, unpacked beside the suite, and nothing is installed on the machine. What it leaves is DIRECTORY/wstest.
set -euo pipefail

mkdir -p "$1"
dir=$(cd "$1" && pwd)
root=$dir/root
site=$root/site

interpreter() {
    local mirror apt
    mirror=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/debian.sources 2>/dev/null | head -n 1)
    mkdir -p "$dir"/apt/lists/partial "$dir"/apt/cache/archives/partial "$dir"/apt/packages
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${mirror:-http://deb.debian.org/debian} bullseye main" \
        >"$dir/apt/sources.list"
    apt=(apt-get -qq -o "Dir::Etc::sourcelist=$dir/apt/sources.list" -o Dir::Etc::sourceparts=-
        -o "Dir::State::lists=$dir/apt/lists" -o "Dir::Cache=$dir/apt/cache" -o APT::Sandbox::User=root)
    "${apt[@]}" update
    cd "$dir/apt/packages"
    "${apt[@]}" download python2.7 python2.7-minimal libpython2.7-minimal libpython2.7-stdlib libpython2.7 \
        libpython2.7-dev libssl1.1 libffi7
    for package in *.deb; do dpkg -x "$package" "$root"; done
    cat >"$dir/python2" <<SCRIPT
#!/bin/sh
export LD_LIBRARY_PATH=$root/usr/lib/$(uname -m)-linux-gnu PYTHONHOME=$root/usr PYTHONPATH=$site
export C_INCLUDE_PATH=$root/usr/include/python2.7:$root/usr/include
exec $root/usr/bin/python2.7 "\$@"
SCRIPT
    chmod +x "$dir/python2"
}

suite() {
    local pip=("$dir/python2" -m pip --no-python-version-warning --disable-pip-version-check install -q --target "$site")
    mkdir -p "$dir/wheels" "$site"
    python3 -m pip download -q --no-deps -d "$dir/wheels" pip==20.3.4 setuptools==44.1.1 wheel==0.37.1
    "$dir/python2" "$dir/wheels/pip-20.3.4-py2.py3-none-any.whl/pip" install -q --target "$site" "$dir"/wheels/*.whl
    "${pip[@]}" txaio==2.1.0 incremental==16.10.1 Twisted==19.10.0 zope.interface==4.6.0 jinja2==2.11.3 \
        markupsafe==1.1.1 Werkzeug==1.0.1 klein==17.10.0 cryptography==3.3.2 pyopenssl==19.1.0 \
        service_identity==18.1.0 unittest2==1.1.0 six==1.16.0 autobahn==0.10.9
    # Its own list of requirements names versions that cannot be had together.
    "${pip[@]}" --no-deps autobahntestsuite==25.10.1
    touch "$site/zope/__init__.py"
}

interpreter
suite
cat >"$dir/wstest.new" <<SCRIPT
#!/bin/sh
exec "$dir/python2" -c 'from autobahntestsuite import wstest; wstest.run()' "\$@"
SCRIPT
chmod +x "$dir/wstest.new"
"$dir/wstest.new" --version
# Under its name only once all of it works.
mv "$dir/wstest.new" "$dir/wstest"
