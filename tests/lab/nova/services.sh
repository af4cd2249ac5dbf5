#!/bin/bash
# Inside the lab: configures and starts Nova and all services that it needs. They listen on 127.0.0.1.
#
# Sourced, it defines bg and wait_for.
logs=/share/logs
mkdir -p "$logs"
# All users share the compiled Python: the packages' scripts, which compile it, have not run.
export PYTHONPYCACHEPREFIX=/var/cache/python PYTHONWARNINGS=ignore

# Starts a program in the background: NAME COMMAND...
bg() {
    setsid "${@:2}" </dev/null >>"$logs/$1" 2>&1 &
    echo $! >"/run/lab-$1.pid"
}
wait_for() { # NAME COMMAND...
    local try
    for ((try = 0; try < 600; try++)); do
        "${@:2}" >/dev/null 2>&1 && return
        sleep 0.5
    done
    echo "$1 does not answer" >&2
    return 1
}
port() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Starts nova-compute: DRIVER
start_compute() {
    printf '[DEFAULT]\ncompute_driver = %s\n' "$1" >/etc/nova/nova-compute.conf
    bg compute runuser -u nova -- nova-compute --config-file /etc/nova/nova.conf --config-file /etc/nova/nova-compute.conf
}
stop_compute() {
    # After SIGTERM it waits for threads that do not end.
    pkill -KILL -u nova -f bin/nova-compute
    while pgrep -u nova -f bin/nova-compute >/dev/null; do sleep 0.1; done
}
[ "${BASH_SOURCE[0]}" = "$0" ] || return 0
set -e

say() { echo "$(date +%T) $*" >&2; }
database() { echo "mysql+pymysql://lab:lab@127.0.0.1/$1"; }
credentials='auth_type = password
auth_url = http://127.0.0.1:5000/v3
username = user
password = lab
project_name = admin
user_domain_name = Default
project_domain_name = Default
region_name = RegionOne'

mkdir -p $PYTHONPYCACHEPREFIX
chmod 1777 $PYTHONPYCACHEPREFIX
cp /usr/share/nova-common/*paste.ini /etc/nova/ 2>/dev/null || true
echo "127.0.0.1 localhost compute" >/etc/hosts
hostname compute

cat >/etc/placement/placement.conf <<CONF
[api]
auth_strategy = keystone
[placement_database]
connection = $(database placement)
[keystone_authtoken]
$credentials
CONF
cat >/etc/nova/nova.conf <<CONF
[DEFAULT]
host = compute
my_ip = 127.0.0.1
transport_url = rabbit://lab:lab@127.0.0.1:5672/
state_path = /var/lib/nova
log_dir = /var/log/nova
allow_resize_to_same_host = true
cpu_allocation_ratio = 64
disk_allocation_ratio = 64
use_cow_images = false
shutdown_timeout = 2
vif_plugging_is_fatal = false
vif_plugging_timeout = 0
[api]
auth_strategy = keystone
[api_database]
connection = $(database nova_api)
[database]
connection = $(database nova)
[keystone_authtoken]
$credentials
[service_user]
$credentials
[placement]
$credentials
[glance]
api_servers = http://127.0.0.1:9292
[neutron]
$credentials
endpoint_override = http://127.0.0.1:9696
[quota]
driver = nova.quota.NoopQuotaDriver
[libvirt]
virt_type = qemu
cpu_mode = none
hw_machine_type = x86_64=q35
images_type = raw
[conductor]
workers = 1
[scheduler]
workers = 1
[vnc]
enabled = false
[oslo_concurrency]
lock_path = /var/lock/nova
[os_vif_ovs]
ovsdb_connection = tcp:127.0.0.1:1
CONF
printf '[database]\nconnection = %s\n' "$(database nova_cell0)" >/etc/nova/cell0.conf
chmod 644 /etc/placement/placement.conf /etc/nova/*.conf
install -d -m 1777 /run/lock
install -d -o nova -g nova /var/lock/nova /var/lib/nova/instances /var/log/nova
install -d -o placement -g placement /var/log/placement
install -d -o mysql -g mysql /run/mysqld /run/mariadbd
install -d -o rabbitmq -g rabbitmq /var/log/rabbitmq /var/lib/rabbitmq /etc/rabbitmq
printf 'NODENAME=rabbit@localhost\nNODE_IP_ADDRESS=127.0.0.1\n' >/etc/rabbitmq/rabbitmq-env.conf
cat >/etc/rabbitmq/rabbitmq.conf <<'CONF'
listeners.tcp.default = 127.0.0.1:5672
default_user = lab
default_pass = lab
loopback_users = none
deprecated_features.permit.transient_nonexcl_queues = true
CONF

# There is no polkit, and nova-compute is not root.
echo 'auth_unix_rw = "none"' >>/etc/libvirt/libvirtd.conf
# shellcheck disable=SC1091 # libvirtd.sh writes it
source /run/lab.sh
stop_libvirtd
start_libvirtd

say 'database, queue, stand-ins'
bg rabbitmq rabbitmq-server
bg standins python3 /share/nova/standins.py
mariadb-install-db --user=mysql --skip-test-db >"$logs/mariadb-install" 2>&1
bg mariadb mariadbd --user=mysql --bind-address=127.0.0.1 --innodb-flush-log-at-trx-commit=0 --skip-log-bin \
    --max-connections=600 --skip-name-resolve
wait_for mariadb mariadb-admin ping
for name in placement nova nova_api nova_cell0; do
    mariadb -e "CREATE DATABASE $name CHARACTER SET utf8mb4; GRANT ALL ON $name.* TO lab@'%' IDENTIFIED BY 'lab'"
done
say 'tables'
runuser -u placement -- placement-manage db sync >"$logs/sync-placement" 2>&1 &
syncs=($!)
runuser -u nova -- nova-manage db sync --local_cell >"$logs/sync-cell1" 2>&1 &
syncs+=($!)
runuser -u nova -- nova-manage api_db sync >"$logs/sync-api" 2>&1
wait_for rabbitmq port 5672
runuser -u nova -- nova-manage cell_v2 map_cell0 --database_connection "$(database nova_cell0)"
runuser -u nova -- nova-manage cell_v2 create_cell --name cell1
runuser -u nova -- nova-manage --config-file /etc/nova/nova.conf --config-file /etc/nova/cell0.conf db sync --local_cell \
    >"$logs/sync-cell0" 2>&1
for sync in "${syncs[@]}"; do wait "$sync"; done

say services
api() { # NAME USER PORT MODULE
    bg "$1" env OS_OSLO_MESSAGING_RABBIT__PROCESSNAME="$1" uwsgi-core --plugin python3 --http-socket "127.0.0.1:$3" \
        --module "$4" --master --processes 1 --threads 4 --enable-threads --lazy-apps --buffer-size 65535 \
        --rem-header Content-Length --uid "$2" --gid "$2" --chdir "/var/lib/$2" --die-on-term
}
api placement placement 8778 placement.wsgi.api:application
api nova-api nova 8774 nova.wsgi.osapi_compute:application
bg conductor runuser -u nova -- nova-conductor --config-file /etc/nova/nova.conf
bg scheduler runuser -u nova -- nova-scheduler --config-file /etc/nova/nova.conf
wait_for placement port 8778
start_compute libvirt.LibvirtDriver
for number in 8774 5000 9292 9696; do wait_for "port $number" port $number; done
wait_for nova-compute bash -c 'mariadb -N -e "select host from nova.compute_nodes" | grep -q compute'
runuser -u nova -- nova-manage cell_v2 discover_hosts
say 'ready'
