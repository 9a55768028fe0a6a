# Settings and helpers shared by the scripts in this folder. Sourced, not run.
# shellcheck shell=bash disable=SC2034
set -Eeuo pipefail
shopt -s inherit_errexit
trap 'echo "${BASH_SOURCE[0]##*/}: line $LINENO failed" >&2' ERR

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${RLHF_CLUSTER_CACHE:-$HOME/.cache/rlhf-cluster} # kept by `down`
STATE=${RLHF_CLUSTER_STATE:-/var/lib/rlhf-cluster}     # removed by `down`
KUBECONFIG_FILE=$STATE/kubeconfig

NODE=rlhf-node
BRIDGE=rlhf0
NODE_IP=10.244.0.1 # the bridge's own address; the API server and DNS listen here
POD_CIDR=10.244.0.0/24
SERVICE_CIDR=10.96.0.0/16
API_IP=10.96.0.1
DNS_IP=10.96.0.10
DOMAIN=cluster.local
ETCD_URL=http://127.0.0.1:23790
SOCK=$STATE/run/containerd.sock
CGROUP=rlhf-cluster # parent cgroup of every pod, so `down` finds each process
CHAIN=RLHF-CLUSTER  # own filter chain, jumped to from FORWARD

K8S_VERSION=v1.34.4
OPERATOR_VERSION=v1.9.4
REGISTRY=localhost/rlhf-test
PAUSE=$REGISTRY/pause:1
BUSYBOX=$REGISTRY/busybox:1.35
INIT=$REGISTRY/init:1
PYTHON=$REGISTRY/python:3.11
OPERATOR=$REGISTRY/training-operator:$OPERATOR_VERSION
MINIO=$REGISTRY/minio:1
STACK_VERSION='test' # tag of our own images

say() { printf '[%s] %s\n' "$(date +%T)" "$*" >&2; }
die() {
	say "error: $*"
	exit 1
}

need_root() { [ "$(id -u)" = 0 ] || die "run as root"; }

# apt_need PROBE PACKAGE ...: install the packages whose probe (a path or a command) is missing.
apt_need() {
	local want=()
	while [ $# -gt 0 ]; do
		[ -e "$1" ] || command -v "$1" >/dev/null || want+=("$2")
		shift 2
	done
	[ ${#want[@]} = 0 ] && return
	say "installing ${want[*]}"
	apt-get update -qq >&2
	# No service may start by itself: this cluster runs its own containerd.
	local policy=/usr/sbin/policy-rc.d mine=
	[ -e $policy ] || {
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod +x $policy
		mine=1
	}
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${want[@]}" >&2
	[ -z "$mine" ] || rm -f $policy
}

k8s_ldflags() {
	local bare=${K8S_VERSION#v} pkg flags=
	for pkg in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
		flags+=" -X $pkg.gitVersion=$K8S_VERSION -X $pkg.gitMajor=${bare%%.*}"
		flags+=" -X $pkg.gitMinor=$(cut -d. -f2 <<<"$bare")"
	done
	echo "$flags"
}

# bin_dir FAMILY: where that family's binaries live, keyed by its sources and the Go version.
bin_dir() {
	local key
	key=$({
		find "$HERE/go/$1" -type f -name 'go.*' -o -type f -name '*.go' | sort | xargs cat
		echo "$K8S_VERSION" "$(go env GOVERSION)"
	} | sha256sum | cut -c1-12)
	echo "$CACHE/bin/$1-$key"
}

# build FAMILY: build that family's binaries into bin_dir unless they are there.
build() {
	local family=$1 dir started=$SECONDS
	command -v go >/dev/null || die "the go tool is needed to build $family"
	dir=$(bin_dir "$family")
	[ -d "$dir" ] && return
	say "building $family (log: $dir.log)"
	mkdir -p "$CACHE/bin"
	rm -rf "$dir.part" && mkdir "$dir.part"
	(
		cd "$HERE/go/$family"
		export CGO_ENABLED=0 GOFLAGS="-mod=readonly -buildvcs=false"
		out=$dir.part
		case $family in
		k8s)
			cmds=()
			for cmd in apiserver controller-manager scheduler proxy; do cmds+=("k8s.io/kubernetes/cmd/kube-$cmd"); done
			go build -ldflags "-s -w$(k8s_ldflags)" -o "$out/" "${cmds[@]}" \
				k8s.io/kubernetes/cmd/kubelet k8s.io/kubernetes/cmd/kubectl
			;;
		etcd) go build -ldflags "-s -w" -o "$out/etcd" go.etcd.io/etcd/server/v3 ;;
		operator)
			go build -ldflags "-s -w" -o "$out/training-operator" \
				github.com/kubeflow/training-operator/cmd/training-operator.v1
			;;
		minio) go build -ldflags "-s -w" -o "$out/minio" github.com/minio/minio ;;
		*) go build -ldflags "-s -w" -o "$out/$family" . ;;
		esac
	) >"$dir.log" 2>&1 || die "building $family failed: $(tail -n 5 "$dir.log")"
	mv "$dir.part" "$dir"
	say "built $family in $((SECONDS - started)) s"
}

# --- background processes: a pid file holds the pid and its start time, so that a reused pid is never hit.
# A zombie that init has yet to reap counts as gone.
start_time() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | awk '$1 != "Z" {print $20}' || true; }

running() {
	local pid born
	[ -s "$STATE/pids/$1" ] || return 1
	read -r pid born <"$STATE/pids/$1"
	[ -n "$born" ] && [ "$(start_time "$pid")" = "$born" ]
}

# start NAME COMMAND...: run it detached, unless it runs already.
start() {
	local name=$1 pid
	shift
	running "$name" && return
	setsid "$@" </dev/null >>"$STATE/logs/$name.log" 2>&1 &
	pid=$!
	echo "$pid $(start_time "$pid")" >"$STATE/pids/$name"
}

# stop NAME: TERM, then KILL after 5 s.
stop() {
	local pid i
	running "$1" || return 0
	read -r pid _ <"$STATE/pids/$1"
	kill "$pid" 2>/dev/null || true
	for ((i = 0; i < 50; i++)); do
		running "$1" || return 0
		sleep 0.1
	done
	say "$1 did not stop, killing it"
	kill -9 "$pid" 2>/dev/null || true
	sleep 0.2
}

# wait_for SECONDS WHAT COMMAND...: poll until the command succeeds.
wait_for() {
	local limit=$1 what=$2 end
	shift 2
	end=$((SECONDS + limit))
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || die "$what: not so after $limit s (logs: $STATE/logs)"
		sleep 0.3
	done
}

kubectl() { "$STATE/bin/kubectl" --kubeconfig "$KUBECONFIG_FILE" "$@"; }
ctr() { command ctr --address "$SOCK" --namespace k8s.io "$@"; }

# import_image TAR: load a docker or OCI archive into the cluster's containerd under its own name.
import_image() { ctr images import "$1" >&2; }
