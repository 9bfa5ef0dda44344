#!/usr/bin/env bash
# Run cisray.sbatch for real, on a Slurm of two nodes that are both this machine: a build that ends, a job file that is
# refused, a build whose second node dies, and a build that is cancelled and submitted again. It needs root, cisray in .venv,
# and slurmctld, slurmd and munged (Debian: slurm-wlm, munge), which need neither run nor be configured: the script starts
# its own in a network of their own, and ends what it started. Exit code 77: something that it needs is not there.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
PATH="$root/.venv/bin:$PATH:/usr/sbin"
for program in slurmctld slurmd munged sbatch ray cisray; do
    command -v "$program" >/dev/null || { echo "test.sh: $program is not installed"; exit 77; }
done
# In a network namespace of its own nothing can be reached from outside, whatever Slurm and Ray bind to.
if [ -z "${CISRAY_TEST_NAMESPACE:-}" ]; then
    unshare --net true 2>/dev/null || { echo "test.sh: no network namespace can be made here; that takes root"; exit 77; }
    CISRAY_TEST_NAMESPACE=1 exec unshare --net "$0" "$@"
fi
ip link set lo up
ip address add 192.0.2.1/32 dev lo  # glibc resolves no name on a machine that has only 127.0.0.1

temporary=$(mktemp -d /tmp/slurm-XXXXXX)
daemons=()
end_all() {
    local code=$?
    trap - EXIT
    scancel --user="$(id -un)" --quiet 2>/dev/null || true
    for _ in $(seq 60); do [ -n "$(squeue --noheader 2>/dev/null)" ] || break; sleep 1; done
    for daemon in "${daemons[@]}"; do
        kill "$daemon" 2>/dev/null || true
        wait "$daemon" || true
    done
    [ "$code" = 0 ] || tail -n 40 "$temporary"/log/* >&2 2>/dev/null || true
    rm -rf "$temporary"
    exit "$code"
}
trap end_all EXIT

read -r controller_port node_port second_port < <(python -c '
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(one.getsockname()[1] for one in held))')
mkdir "$temporary"/{state,log,munge,scratch,folder}
chmod 755 "$temporary"
user=$(id -un)
cat > "$temporary/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$controller_port
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$temporary/munge/socket
StateSaveLocation=$temporary/state
SlurmctldPidFile=$temporary/slurmctld.pid
SlurmctldLogFile=$temporary/log/slurmctld
SlurmdSpoolDir=$temporary/spool-%n
SlurmdPidFile=$temporary/slurmd-%n.pid
SlurmdLogFile=$temporary/log/slurmd-%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdTimeout=10
MpiDefault=none
NodeName=one NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$node_port CPUs=2
NodeName=two NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$second_port CPUs=2
PartitionName=all Nodes=one,two Default=YES MaxTime=10
CONF
export SLURM_CONF="$temporary/slurm.conf"

head -c 1024 /dev/urandom > "$temporary/munge/key"
chmod 600 "$temporary/munge/key"
munged --foreground --force --key-file="$temporary/munge/key" --socket="$temporary/munge/socket" \
    --pid-file="$temporary/munge/pid" --log-file="$temporary/log/munged" --seed-file="$temporary/munge/seed" 2>/dev/null &
daemons+=($!)
until [ -S "$temporary/munge/socket" ]; do kill -0 "$!"; sleep 0.1; done
slurmctld -D -i 2>/dev/null &
daemons=($! "${daemons[@]}")
for node in one two; do
    slurmd -D -N "$node" 2>/dev/null &
    daemons=($! "${daemons[@]}")
done
until [ "$(sinfo --noheader --Node --format=%t 2>/dev/null | sort -u)" = idle ]; do
    [ "$SECONDS" -lt 60 ] || { echo "test.sh: Slurm's nodes did not come up"; exit 1; }
    sleep 0.5
done
sinfo --Node

cd "$temporary/folder"
cp -r "$root/jobs" .
export CISRAY_SCRATCH="$temporary/scratch" CISRAY_OBJECT_STORE_MB=128 CISRAY_CACHE="$temporary/cache"
echo "== simulate"
cisray simulate runs/tiny/simulated
# Hundreds of shards, so that a build whose first files are seen is far from its end.
small=(--set windows.shard_bp=8000 --set cluster.cpus_per_actor=0.5)

submit() {  # NODES, the verb and its arguments
    sbatch --parsable --nodes="$1" --cpus-per-task=2 --output="$temporary/folder/%j.log" "$root/infra/slurm/cisray.sbatch" "${@:2}"
}
await() {  # JOB: wait for its end and print its exit code, CODE:SIGNAL
    while [ -n "$(squeue --noheader --job "$1" 2>/dev/null)" ]; do sleep 0.5; done
    scontrol show job "$1" | sed -n 's/.* ExitCode=\([0-9:]*\).*/\1/p'
}
expect() {  # WHAT, WANTED, GOT
    echo "   $1: $3"
    [ "$2" = "$3" ] || { cat "$temporary"/folder/*.log; echo "test.sh: $1: wanted $2, got $3"; exit 1; }
}
left_over() { find "$temporary/scratch" -mindepth 1 | wc -l; }
digest() { (cd "$1" && find . -type f ! -name run.json | sort | xargs sha256sum | sha256sum | cut -c1-16); }
until_file() {  # JOB, PATTERN: wait until some file matches, while the job is there
    until compgen -G "$2" >/dev/null; do
        [ -n "$(squeue --noheader --job "$1")" ] || { echo "test.sh: job $1 ended without $2"; cat "$1.log"; exit 1; }
        sleep 0.1
    done
}

echo "== a build on two nodes"
job=$(submit 2 build jobs/tiny/dataset.toml "${small[@]}")
expect "exit code" 0:0 "$(await "$job")"
grep "Ray runs on 2 node(s): one two" "$job.log"
grep "^dataset: " "$job.log"
expect "files left in the scratch folder" 0 "$(left_over)"
undisturbed=$(digest runs/tiny/dataset)

echo "== a job file that is refused: the verb's own exit code"
job=$(submit 1 build jobs/tiny/dataset.toml --set windows.stride=1)
expect "exit code" 2:0 "$(await "$job")"
grep "cisray: " "$job.log"

echo "== a build whose second node dies"
job=$(submit 2 build jobs/tiny/dataset.toml "${small[@]}" --set out=runs/tiny/node-died)
until_file "$job" "runs/tiny/node-died.unfinished/examples/split=*/*.parquet"
mapfile -t pids < <(scontrol listpids "$job.1" two | awk 'NR > 1 && $1 > 0 { print $1 }')
allowed=$(for pid in "${pids[@]}"; do grep Cpus_allowed_list "/proc/$pid/status" || true; done | awk '{ print $2 }' | sort -u)
expect "cores that its processes may use" 0-1 "$allowed"
kill -KILL "${pids[@]}"
echo "   killed ${#pids[@]} processes of node two"
expect "exit code" 0:0 "$(await "$job")"
expect "bytes like the undisturbed build's" "$undisturbed" "$(digest runs/tiny/node-died)"

echo "== a build that is cancelled, and submitted again"
job=$(submit 2 build jobs/tiny/dataset.toml "${small[@]}" --set out=runs/tiny/cancelled)
until_file "$job" "runs/tiny/cancelled.unfinished/examples/split=*/*.parquet"
scancel "$job"
await "$job" >/dev/null
expect "state" CANCELLED "$(scontrol show job "$job" | sed -n 's/.*JobState=\([A-Z]*\).*/\1/p')"
for _ in $(seq 40); do pgrep -f "$temporary/scratch/cisray-$job-" >/dev/null || break; sleep 0.5; done  # as they end
expect "processes left" "" "$(pgrep -af "$temporary/scratch/cisray-$job-" || true)"
expect "a finished dataset" "" "$(ls -d runs/tiny/cancelled 2>/dev/null || true)"
job=$(submit 2 build jobs/tiny/dataset.toml "${small[@]}" --set out=runs/tiny/cancelled)
expect "exit code" 0:0 "$(await "$job")"
expect "bytes like the undisturbed build's" "$undisturbed" "$(digest runs/tiny/cancelled)"
echo "== all passed in $SECONDS s"
