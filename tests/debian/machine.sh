#!/bin/sh
# Runs a command in a Debian 13 on a machine that has another: machine.sh DIRECTORY COMMAND... Its root file system is made
# in the directory and kept there (2 GiB); the last commit of this repository lies in it, where the command runs. The
# network is this machine's, for apt and pip; mounts and processes are its own, and end with the command.
set -eu
root=$(mkdir -p "$1" && cd "$1" && pwd)
shift
cd "$(dirname "$0")/../.."
if [ ! -e "$root/srv/made" ]; then
    unshare --mount --pid --fork --kill-child --propagation private \
        debootstrap --variant=minbase --include=ca-certificates trixie "$root"
    cp -r /usr/local/share/ca-certificates "$root/usr/local/share/"
    chroot "$root" update-ca-certificates
    touch "$root/srv/made"
fi
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
rm -rf "$root/srv/pve-exec-gateway"
git clone -q . "$root/srv/pve-exec-gateway"
exec unshare --mount --pid --ipc --uts --fork --kill-child --propagation private sh -euc '
mount --bind "$1" "$1"
cd "$1"
shift
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 -o nsdelegate cgroup2 sys/fs/cgroup
mount --rbind /dev dev
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mkdir run/lock
pivot_root . mnt
umount -l mnt
hostname debian13
cd /srv/pve-exec-gateway
exec env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 TERM=dumb "$@"
' sh "$root" "$@"
