//! haproxy.cfg (HAProxy 3.0's configuration manual).
//!
//! Two signals of each master, not one. *Alive* is the health check, TLS `GET /livez` but for etcd: only a dead master
//! loses its connections. *Ready* is the agent check, one word from the master's agent: `drain` sends new connections
//! elsewhere and cuts none. With a single signal an election of etcd, which makes every `/readyz` fail, would cut every
//! watch of the cluster. When none is ready, new connections go to whoever has started: backend `started`.
//! Started is an apiserver that has what its answers depend on (`informer-sync` of `/readyz`). It accepts connections, and is
//! live, before that, and then answers 403 to clients whose rights it has not read yet: of a compact cluster that lost its power
//! at once 24 of 1389 requests, with connections as the check. It is ready long after that where three write the default roles
//! at the same time (`rbac/bootstrap-roles`; the roles of the last boot are in etcd): there clients waited for 15 s instead of 8.
//! `/livez` waits for that hook, too. With it one that has started was not alive for as long as it wrote, up to 11 s on busy machines,
//! and lost the clients that it had taken in the last resort as soon as another one was ready.
//!
//! `on-marked-down shutdown-sessions` would cut the connections of a dead master, and is not used: it also shuts one that is
//! only being made, and HAProxy 3.0 then forgets its client for ever (`stream_shutdown_self`: no timer is left, and nothing
//! closes the other side; every second time that a master was black-holed under clients, one of them hung). The agent cuts
//! them instead, when no connection to that server can be in the making any more: `agent/src/lb/watch.rs`.

use contract::lb::{CONNECT_MS, FALL, RISE, servers};
use contract::node::NodeConfig;
use contract::paths::{LB, PKI};
use contract::ports::{API, LB_METRICS, READY};
use std::fmt::Write;
use std::net::SocketAddr;

/// Connections at a time. An idle one takes a few kB here and as much in the kernel, twice; a cluster of a thousand nodes
/// holds some ten thousand.
const MAXCONN: u32 = 20_000;
/// Until a master that is gone without a word gets no new connections: a check begins within `INTER`, is refused or times out
/// within `CONNECT`, and is repeated after `FAST_INTER` until it failed `FALL` times: 0.45 to 0.65 s. It loses those it has
/// when it is still down after `contract::lb::SETTLED_MS`, in which checks go on, unless the last one succeeded, and if another
/// master could take them: on a network that loses one packet in a hundred two checks in a row are lost every few minutes, and
/// no watch is to be cut for that, also where the two that bring it back take longer.
const INTER_MS: u32 = 200;
const FAST_INTER_MS: u32 = 50;
/// The last resort's servers are asked less often: each time costs an apiserver a TLS handshake.
const STARTED_INTER_MS: u32 = 500;
/// Whom the last resort gives up too, nobody reaches: a master that has too much to do is late for seconds, and clients that
/// are late are better off than those that are turned away. One that is dead refuses the checks, and is given up after half a
/// second; one without power or network after 2.5 to 3 s, in which it costs a client that tries it `CONNECT`, and as soon as the
/// health check tells so where another master serves: `agent/src/lb/watch.rs` has it marked down here.
const STARTED_FALL: u32 = 10;
/// A server that is down is asked this often.
const DOWN_INTER_MS: u32 = 50;
/// An apiserver that is busy answers late; only one that takes this long, `FALL` times in a row, is taken for dead.
const CHECK_MS: u32 = 500;
/// How often the word `ready` or `drain` is asked for.
const AGENT_INTER_MS: u32 = 200;
/// Unacknowledged data for so long ends a connection, on both sides: the other end is gone.
const USER_TIMEOUT_S: u32 = 10;
/// Watches are idle for hours and none may be cut for that; what is dead is found by keepalives and the user timeout.
const IDLE: &str = "24h";

/// The two checks' paths: what is left out are etcd (`etcd-readiness` is a group of checks: k8s.io/apiserver,
/// pkg/server/options/etcd.go), which all masters lose together, and the hook that only writes. Whoever has started is alive.
const LIVE: &str = "/livez?exclude=etcd&exclude=poststarthook/rbac/bootstrap-roles";
const STARTED: &str = "/readyz?exclude=etcd&exclude=etcd-readiness&exclude=poststarthook/rbac/bootstrap-roles";

/// The file.
pub(super) fn configuration(config: &NodeConfig) -> String {
    let own = config.node.address;
    let port = config.endpoint_port();
    // The virtual IP, whoever holds it (ip_nonlocal_bind); without one, the node's own address.
    let bind = SocketAddr::new(config.virtual_ip().unwrap_or(own), port);
    let lines = |options: &str| -> String {
        config.masters.iter().fold(String::new(), |mut all, (name, ip)| {
            let _ = writeln!(all, "    server {name} {}{options}", SocketAddr::new(*ip, API));
            all
        })
    };
    let (ready, started) = (lines(""), lines(""));
    let up: String = servers(config).iter().map(|s| format!("%[srv_is_up({s})] ")).collect();
    let metrics = SocketAddr::new(own, LB_METRICS);
    let health = |path: &str| {
        format!(
            "option httpchk\n    http-check send meth GET uri {path} ver HTTP/1.1 hdr Host kubernetes hdr Connection close\n    \
             http-check expect status 200"
        )
    };
    let (live, has_started) = (health(LIVE), health(STARTED));
    format!(
        "\
# Made by quorate-init from the node's configuration at each boot; why it is so stands in init/src/roles/lb/haproxy.rs.
global
    maxconn {MAXCONN}
    log stdout format raw local0 notice
    stats socket unix@{LB}/sock/stats mode 600 level admin
    ssl-default-server-options ssl-min-ver TLSv1.2

defaults
    mode tcp
    log global
    option dontlognull
    option clitcpka
    option srvtcpka
    option redispatch 1
    retries 3
    balance leastconn
    timeout connect {CONNECT_MS}ms
    timeout check {CHECK_MS}ms
    timeout client {IDLE}
    timeout server {IDLE}
    timeout tunnel {IDLE}
    default-server inter {INTER_MS}ms fastinter {FAST_INTER_MS}ms downinter {DOWN_INTER_MS}ms fall {FALL} rise {RISE} \
tcp-ut {USER_TIMEOUT_S}s

frontend api
    bind {bind} tcp-ut {USER_TIMEOUT_S}s
    use_backend started if {{ nbsrv(ready) eq 0 }}
    default_backend ready

backend ready
    {live}
    default-server check check-ssl verify required ca-file {PKI}/ca.crt agent-check agent-port {READY} \
agent-inter {AGENT_INTER_MS}ms slowstart 5s
{ready}
backend started
    {has_started}
    default-server check check-ssl verify required ca-file {PKI}/ca.crt inter {STARTED_INTER_MS}ms fall {STARTED_FALL}
{started}
# Which servers are up: what quorate-agent asks, and so whether this process hangs.
frontend health
    mode http
    bind unix@{LB}/sock/health mode 600
    timeout client 1s
    http-request return status 200 content-type text/plain lf-string \"{up}\"

frontend metrics
    mode http
    bind {metrics}
    timeout client 10s
    http-request use-service prometheus-exporter if {{ path /metrics }}
    http-request return status 200 content-type text/plain string ok if {{ path /healthz }} {{ nbsrv(started) gt 0 }}
    http-request return status 503 content-type text/plain string \"no master\" if {{ path /healthz }}
    http-request return status 404
"
    )
}
