#!/bin/sh
# Makes sure that the machine has what the embedded stack cannot bring along: the
# programs of PostgreSQL 15 or newer. As root on Debian or Ubuntu it installs them;
# elsewhere it says in one line what to install. With --redis it does the same for
# Redis, which the stack and the tests use where it is installed and do without
# elsewhere (an in-process server stands in). It is quiet when nothing is missing,
# may run again at any time, and starts no system service.
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

# install installs a package of Debian's without its service: the stack runs its
# own. It prints why it could not.
install() {
	export DEBIAN_FRONTEND=noninteractive
	echo "Installing $1 from the system's packages ..." >&2
	policy=/usr/sbin/policy-rc.d
	if [ ! -e $policy ]; then
		trap 'rm -f $policy' EXIT
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod 755 $policy
	fi
	mkdir -p /etc/postgresql-common/createcluster.d
	echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.d/bookworm.conf
	log=$(mktemp)
	installed=0
	{ apt-get update && apt-get install -y --no-install-recommends "$1"; } >"$log" 2>&1 || installed=$?
	[ $installed -eq 0 ] || cat "$log" >&2
	rm -f "$log"
	return $installed
}

may_install() {
	command -v apt-get >/dev/null && [ "$(id -u)" -eq 0 ]
}

if [ "${1:-}" = --redis ] && ! have_redis; then
	if ! may_install || ! install redis-server; then
		echo "Redis is missing, an in-process server stands in. To have the real one, install redis-server." >&2
	fi
fi

have_postgres && exit 0

[ -z "${BOOKWORM_POSTGRES_BIN:-}" ] ||
	missing "BOOKWORM_POSTGRES_BIN=$BOOKWORM_POSTGRES_BIN does not hold it"
case $(uname -s) in
Darwin) missing "run: brew install postgresql@17 redis" ;;
esac
if ! command -v apt-get >/dev/null; then
	missing "install your system's PostgreSQL server package (Fedora: dnf install postgresql-server; Alpine: apk add postgresql)"
fi
if ! may_install; then
	missing "run: sudo apt-get install postgresql redis-server"
fi
install postgresql || missing "apt-get install postgresql failed, see above"
have_postgres ||
	missing "this system's package is too old, install one from the PostgreSQL project's own repository"
