//! PID 1 of a test image: a VM that answers in a master's place, with real sockets and a real certificate of the cluster's
//! CA, for tests of what stands in front of masters. It reads the same seed as a master, and can be made not ready, slow and
//! hung on command (black-holed it is by the lab's switch).
//!
//! | question | file |
//! |---|---|
//! | how does it come up? | `boot.rs` |
//! | what does it answer? | `serve.rs` |
//! | how is it made to misbehave? | `mode.rs` |
//! | as a load balancer: what does it do instead? | `guide.rs`: what kubeadm's guide says, as our peer in the benchmark |

use contract::node::Role;

mod boot;
mod guide;
mod mode;
mod serve;

fn main() {
    if let Err(e) = run() {
        boot::console(&format!("STOPPED: {e}"));
    }
    // PID 1 must not end.
    loop {
        std::thread::park();
    }
}

fn run() -> Result<(), String> {
    boot::mounts()?;
    boot::modules()?;
    let mut voice = boot::Voice::open()?;
    voice.say("mounts ok (0 ms)");
    let seed = boot::seed()?;
    boot::network(&seed)?;
    if seed.node.roles.contains(&Role::Lb) {
        voice.say(&format!("node {} with lb (as kubeadm's guide has it) from {}", seed.node.name(), seed.source));
        return guide::start(&seed.node, voice);
    }
    voice.say(&format!("node {} with master (a stand-in) from {}", seed.node.name(), seed.source));
    serve::start(&seed)?;
    voice.say("all ready");
    voice.hear();
    Ok(())
}
