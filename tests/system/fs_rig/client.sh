# SPDX-License-Identifier: GPL-2.0-or-later
# Sourced in the client VM of the tests: what a client does, as plain shell, so that the same lines serve in an APP-VM.

# as CLIENT UID COMMAND…: run as that UID in that client's network
as() {
	(
		cd /
		net=$1 uid=$2
		shift 2
		exec nsenter --net="/run/netns/$net" setpriv --reuid="$uid" --regid=60000 --clear-groups "$@"
	)
}

# make_client NAME CARD ADDRESS/PREFIX: a client is a network namespace with one card
make_client() {
	ip netns add "$1" && ip link set "$2" netns "$1" && ip -n "$1" addr add "$3" dev "$2" &&
		ip -n "$1" link set "$2" up && ip -n "$1" link set lo up
}

# mount_share CLIENT SERVER VERSION SHARE OPTIONS DIRECTORY
mount_share() {
	mkdir -p "$6"
	case $3 in
	3) options=vers=3,nolock,port=2049,mountport=20048,proto=tcp,mountproto=tcp path=/srv/$4 ;;
	*) options=vers=$3 path=/$4 ;;
	esac
	nsenter --net="/run/netns/$1" timeout 30 mount -t nfs -o "$options,$5,hard,sec=sys" "$2:$path" "$6"
}

# try CLIENT UID OPERATION DIRECTORY: does one operation; 0 when it was done, 1 when it was refused
try() {
	case $(try_all "$1" "$2" "$3" "$4") in *' 0') ;; *) return 1 ;; esac
}

# try_all CLIENT UID OPERATIONS DIRECTORY…: one line `DIRECTORY OPERATION 0|1` for each pair
try_all() {
	client=$1 uid=$2 operations=$3
	shift 3
	as "$client" "$uid" sh -c '
		one() {
			case $1 in
			read) cat "$2/file" >/dev/null ;;
			list) ls "$2" >/dev/null ;;
			execute) "$2/program" ;;
			write) printf x | dd of="$2/file" conv=notrunc bs=1 ;;
			create) (: >"$2/new.$$") && rm "$2/new.$$" ;;
			append) (echo line >>"$2/file") ;;
			esac
		}
		operations=$1
		shift
		for directory; do
			for operation in $operations; do
				one "$operation" "$directory" >/dev/null 2>&1 && echo "$directory $operation 0" || echo "$directory $operation 1"
			done
		done' try_all "$operations" "$@"
}

# appender CLIENT UID FILE COUNT OUT: appends COUNT lines one by one, notes in OUT those that the shell says were written
appender() {
	as "$1" "$2" sh -c '
		number=0
		while [ $number -lt "$2" ]; do
			number=$((number + 1))
			echo "$3 $number" 2>/dev/null >>"$1" && echo "$3 $number" >&3
		done' appender "$3" "$4" "$1.$2" 3>"$5" 2>/dev/null
}
