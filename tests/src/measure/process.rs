//! What a process uses, read from `/proc`.

use std::{fs, time::Duration};

use nix::{
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};

/// Resident memory of a process in KiB.
pub fn resident_kib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process with memory");
    line.trim().trim_end_matches("kB").trim().parse().expect("a number of KiB")
}

/// Processor time of a process in user and kernel mode, of all its threads, those that have ended too, to the nanosecond.
pub fn cpu(pid: u32) -> Duration {
    let pid = Pid::from_raw(pid.try_into().expect("a process"));
    let clock = clock_getcpuclockid(pid).expect("the process runs");
    Duration::from(clock_gettime(clock).expect("the process's clock"))
}

/// How many threads a process has.
pub fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs").count()
}
