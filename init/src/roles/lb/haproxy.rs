//! haproxy.cfg (HAProxy 3.0's configuration manual).
//!
//! Two signals of each master, not one. *Alive* is the health check, TLS `GET /livez?exclude=etcd`: only a dead master
//! loses its connections. *Ready* is the agent check, one word from the master's agent: `drain` sends new connections
//! elsewhere and cuts none. With a single signal an election of etcd, which makes every `/readyz` fail, would cut every
//! watch of the cluster. When none is ready, new connections go to whoever accepts them: backend `reachable`.

use contract::node::NodeConfig;
use contract::paths::{LB, PKI};
use contract::ports::{API, LB_METRICS, READY};
use std::fmt::Write;
use std::net::SocketAddr;

/// Connections at a time. An idle one takes a few kB here and as much in the kernel, twice; a cluster of a thousand nodes
/// holds some ten thousand.
const MAXCONN: u32 = 20_000;
/// Until a master that is gone without a word is known to be: a check begins within `INTER`, is refused or times out within
/// `CONNECT`, and is repeated after `FAST_INTER` until it failed `FALL` times: 0.6 to 0.95 s. Three, because on a network
/// that loses one packet in a hundred two in a row are lost every few minutes, and each time all watches would be cut.
const INTER_MS: u32 = 250;
const FAST_INTER_MS: u32 = 50;
const FALL: u32 = 3;
/// A server that was refused is asked this often.
const DOWN_INTER_MS: u32 = 500;
/// A connection to a server in the same network takes a millisecond; one that is not answered is tried at the next server.
const CONNECT_MS: u32 = 200;
/// An apiserver that is busy answers late; only one that takes this long, `FALL` times in a row, is taken for dead.
const CHECK_MS: u32 = 500;
/// How often the word `ready` or `drain` is asked for.
const AGENT_INTER_MS: u32 = 200;
/// Unacknowledged data for so long ends a connection, on both sides: the other end is gone.
const USER_TIMEOUT_S: u32 = 10;
/// Watches are idle for hours and none may be cut for that; what is dead is found by keepalives and the user timeout.
const IDLE: &str = "24h";

/// The file.
pub(super) fn configuration(config: &NodeConfig) -> String {
    let own = config.node.address;
    let port = config.endpoint_port();
    // The virtual IP, whoever holds it (ip_nonlocal_bind); without one, the node's own address.
    let bind = SocketAddr::new(config.virtual_ip().unwrap_or(own), port);
    let servers = |options: &str| -> String {
        config.masters.iter().fold(String::new(), |mut all, (name, ip)| {
            let _ = writeln!(all, "    server {name} {}{options}", SocketAddr::new(*ip, API));
            all
        })
    };
    let (ready, reachable) = (servers(""), servers(""));
    let metrics = SocketAddr::new(own, LB_METRICS);
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
    default-server inter {INTER_MS}ms fastinter {FAST_INTER_MS}ms downinter {DOWN_INTER_MS}ms fall {FALL} rise 2 \
on-marked-down shutdown-sessions tcp-ut {USER_TIMEOUT_S}s

frontend api
    bind {bind} tcp-ut {USER_TIMEOUT_S}s
    use_backend reachable if {{ nbsrv(ready) eq 0 }}
    default_backend ready

backend ready
    option httpchk
    http-check send meth GET uri /livez?exclude=etcd ver HTTP/1.1 hdr Host kubernetes hdr Connection close
    http-check expect status 200
    default-server check check-ssl verify required ca-file {PKI}/ca.crt agent-check agent-port {READY} \
agent-inter {AGENT_INTER_MS}ms slowstart 5s
{ready}
backend reachable
    default-server check
{reachable}
# How many are ready, how many are reachable: what quorate-agent asks, and so whether this process hangs.
frontend health
    mode http
    bind unix@{LB}/sock/health mode 600
    timeout client 1s
    http-request return status 200 content-type text/plain lf-string \"%[nbsrv(ready)] %[nbsrv(reachable)]\"

frontend metrics
    mode http
    bind {metrics}
    timeout client 10s
    http-request use-service prometheus-exporter if {{ path /metrics }}
    http-request return status 200 content-type text/plain string ok if {{ path /healthz }} {{ nbsrv(reachable) gt 0 }}
    http-request return status 503 content-type text/plain string \"no master\" if {{ path /healthz }}
    http-request return status 404
"
    )
}
