#!/bin/sh
# Becomes process 1 of a machine of its own: its own mounts, processes, network (none but lo), host name and cgroups.
# usage: boot.sh outer TREE systemd|plain    TREE is only read; what is written goes to memory.
# Everything ends, and every mount goes, with process 1, which dies with the process that started this.
set -eu
stage=$1 tree=$2 kind=$3

if [ "$stage" = outer ]; then
    # A cgroup of our own, in whichever place the host has the second version mounted.
    mount --make-rprivate /
    mount -t tmpfs tmpfs /mnt
    mkdir /mnt/cgroup
    if mount -t cgroup2 cgroup2 /mnt/cgroup 2>/dev/null; then
        mkdir "/mnt/cgroup/mailferry-install-$$"
        echo $$ >"/mnt/cgroup/mailferry-install-$$/cgroup.procs"
        umount /mnt/cgroup
    elif [ "$kind" = systemd ]; then
        echo "boot.sh: cgroup2 cannot be mounted here" >&2
        exit 1
    fi
    exec unshare --mount --pid --fork --uts --ipc --net --cgroup --kill-child "$0" inner "$tree" "$kind"
fi

root=/mnt/root
mkdir $root /mnt/upper /mnt/work
mount -t overlay overlay -o "lowerdir=$tree,upperdir=/mnt/upper,workdir=/mnt/work" $root
mount -t proc proc $root/proc
# The host's kernel settings are not the machine's to change.
mount --bind $root/proc/sys $root/proc/sys
mount -o remount,ro,bind $root/proc/sys
mount -t sysfs -o ro sysfs $root/sys
[ "$kind" != systemd ] || mount -t cgroup2 cgroup2 $root/sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs $root/dev
for name in null zero full random urandom tty; do
    touch $root/dev/$name
    mount --bind /dev/$name $root/dev/$name
done
mkdir $root/dev/shm $root/dev/pts
mount -t tmpfs -o mode=1777 tmpfs $root/dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts $root/dev/pts
ln -s pts/ptmx $root/dev/ptmx
ln -s /proc/self/fd $root/dev/fd
mount -t tmpfs -o mode=755 tmpfs $root/run
mount -t tmpfs -o mode=1777 tmpfs $root/tmp
# The host's kernel loads its modules.
[ "$kind" != systemd ] || { mkdir -p $root/run/systemd/system && ln -s /dev/null $root/run/systemd/system/systemd-modules-load.service; }
ip link set lo up
mkdir $root/run/outside
cd $root
pivot_root . run/outside
umount -l /run/outside
rmdir /run/outside
# As at a real boot; how systemd hands credentials to a service depends on it.
mount --make-rshared /
if [ "$kind" = systemd ]; then
    exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --show-status=0 </dev/null
fi
# Orphans of the machine are reaped by being ignored.
exec env -i /usr/bin/python3 -c 'import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True: signal.pause()' </dev/null
