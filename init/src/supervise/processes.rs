//! Processes that PID 1 did not start itself, by the program they run: those of the control plane's pods.

use std::fs;

/// The kernel keeps so much of a program's name (`TASK_COMM_LEN`, less its end).
const COMM: usize = 15;

/// Process ids of a program, by the name it was started by.
pub(crate) fn of(program: &str) -> Vec<i32> {
    let wanted = program.get(..COMM).unwrap_or(program);
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    // One that ended meanwhile has no name any more.
    pids.filter(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim_end() == wanted)).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn finds_a_process_by_its_name() {
        let own = i32::try_from(std::process::id()).expect("a pid");
        let comm = std::fs::read_to_string("/proc/self/comm").expect("a name");
        assert!(super::of(comm.trim_end()).contains(&own));
        assert_eq!(super::of("no-such-program"), Vec::<i32>::new());
    }
}
