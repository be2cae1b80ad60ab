#!/usr/bin/env bash
# A SLURM cluster of one node on this machine, of Debian's packages, as root:
#
#     apt-get install slurmctld slurmd slurm-client
#     tests/slurm/cluster.sh COMMAND...
#
# runs COMMAND with SLURM_CONF set and ends the cluster with it. It has no security whatsoever.
set -euo pipefail
folder=$(mktemp -d /tmp/slurm-test.XXXXXX)
host=$(hostname -s)
mkdir -p "$folder"/{state,spool,log}
cat > "$folder/slurm.conf" <<EOF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${SLURM_TEST_PORT:-16817}
SlurmdPort=$((${SLURM_TEST_PORT:-16817} + 1))
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
JobRequeue=1
KillWait=5
SchedulerParameters=bf_interval=5,sched_interval=5
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=test Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
EOF
export SLURM_CONF=$folder/slurm.conf
finish() {
    status=$?
    scancel --user="$(id -un)" 2>/dev/null || true
    kill "${controller:-}" "${daemon:-}" 2>/dev/null || true
    wait 2>/dev/null || true
    [ $status = 0 ] && rm -rf "$folder" || echo "the cluster's logs: $folder/log" >&2
    exit $status
}
trap finish EXIT
slurmctld -D > /dev/null 2>&1 & controller=$!
slurmd -D > /dev/null 2>&1 & daemon=$!
for _ in $(seq 60); do
    sinfo -h -o %t 2>/dev/null | grep -q -E '^(idle|mix|alloc)' && break
    sleep 1
done
sinfo -h -o %t | grep -q -E '^(idle|mix|alloc)' || { echo "no node is ready" >&2; exit 1; }
"$@"
