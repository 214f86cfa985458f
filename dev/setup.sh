#!/bin/sh
# Makes sure that the machine has what the embedded stack cannot bring along:
# the programs of PostgreSQL 15 or newer, and Redis where that is easy (without
# it an in-process stand-in is used). As root on Debian or Ubuntu it installs
# them; elsewhere it says in one line what to install. It is quiet when nothing
# is missing, may run again at any time, and starts no system service.
set -eu

oldest=15

# major prints the major version of the PostgreSQL programs in a folder.
major() {
	[ -x "$1/initdb" ] || return 0
	"$1/postgres" --version 2>/dev/null | sed -n 's/.*(PostgreSQL) \([0-9][0-9]*\).*/\1/p'
}

# The places are those of internal/postgres/cluster.
have_postgres() {
	if [ -n "${BOOKWORM_POSTGRES_BIN:-}" ]; then
		set -- "$BOOKWORM_POSTGRES_BIN"
	else
		set -- "$(dirname "$(command -v initdb || echo /nowhere/initdb)")" \
			/usr/lib/postgresql/*/bin /usr/pgsql-*/bin \
			/opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin \
			/home/linuxbrew/.linuxbrew/opt/postgresql*/bin \
			/Applications/Postgres.app/Contents/Versions/*/bin
	fi
	for dir; do
		version=$(major "$dir")
		[ "${version:-0}" -ge "$oldest" ] && return 0
	done
	return 1
}

have_redis() {
	command -v redis-server >/dev/null || command -v valkey-server >/dev/null
}

missing() {
	echo "PostgreSQL $oldest or newer is missing: $1" >&2
	exit 1
}

# install_debian installs packages without their services: the stack runs a
# cluster of its own.
install_debian() {
	export DEBIAN_FRONTEND=noninteractive
	policy=/usr/sbin/policy-rc.d
	if [ ! -e $policy ]; then
		trap 'rm -f $policy' EXIT
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod 755 $policy
	fi
	mkdir -p /etc/postgresql-common/createcluster.d
	echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.d/bookworm.conf
	log=$(mktemp)
	if ! { apt-get update && apt-get install -y --no-install-recommends postgresql; } >"$log" 2>&1; then
		cat "$log" >&2
		rm -f "$log"
		missing "apt-get install postgresql failed, see above"
	fi
	if ! have_redis; then
		apt-get install -y --no-install-recommends redis-server >"$log" 2>&1 ||
			echo "Redis could not be installed; the stack uses its in-process one." >&2
	fi
	rm -f "$log"
}

have_postgres && exit 0

[ -z "${BOOKWORM_POSTGRES_BIN:-}" ] ||
	missing "BOOKWORM_POSTGRES_BIN=$BOOKWORM_POSTGRES_BIN does not hold it"
case $(uname -s) in
Darwin) missing "run: brew install postgresql@17 redis" ;;
esac
if ! command -v apt-get >/dev/null; then
	missing "install your system's PostgreSQL server package (Fedora: dnf install postgresql-server; Alpine: apk add postgresql)"
fi
if [ "$(id -u)" -ne 0 ]; then
	missing "run: sudo apt-get install postgresql redis-server"
fi
echo "Installing PostgreSQL (and Redis) from the system's packages ..." >&2
install_debian
have_postgres ||
	missing "this system's package is too old, install one from the PostgreSQL project's own repository"
