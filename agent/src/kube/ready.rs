//! The word for load balancers on the master's own address: `ready` or `drain` (HAProxy's agent-check,
//! `init/src/roles/lb/haproxy.rs`), one line per connection. Drained means that new connections go elsewhere, and none is cut.

use crate::etcd::health::Health;
use contract::node::NodeConfig;
use contract::ports::READY;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A line fits into any socket's buffer.
const PATIENCE: Duration = Duration::from_millis(200);

/// Answers, in a thread of its own.
pub(super) fn serve(config: &NodeConfig, is_ready: Arc<AtomicBool>, health: Arc<Health>) -> Result<(), String> {
    let listener = TcpListener::bind(SocketAddr::new(config.node.address, READY))
        .map_err(|e| format!("listening on port {READY}: {e}"))?;
    super::forever("answering load balancers", move || {
        loop {
            let (mut stream, _) = listener.accept().map_err(|e| e.to_string())?;
            let well = is_ready.load(Ordering::Relaxed) && health.is_healthy();
            let word: &[u8] = if well { b"ready\n" } else { b"drain\n" };
            // Whoever does not listen asks again.
            let _ = stream.set_write_timeout(Some(PATIENCE)).and_then(|()| stream.write_all(word));
        }
    });
    Ok(())
}
