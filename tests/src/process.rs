//! The kernel's data about a process.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal};

/// Resident memory of process `pid`, in bytes.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is alive");
    field(&status, "VmRSS:") * 1024
}

/// Peak resident memory of process `pid`, in bytes.
pub fn peak_resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is alive");
    field(&status, "VmHWM:") * 1024
}

/// Bytes that process `pid` caused to be written to storage so far.
pub fn storage_bytes_written(pid: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).expect("the process is alive");
    field(&io, "write_bytes:")
}

/// Bytes that process `pid` passed to `write` and related calls so far, including sockets.
pub fn bytes_handed_to_write(pid: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).expect("the process is alive");
    field(&io, "wchar:")
}

/// Whether process `pid` ignores a signal. It may inherit this: under `nohup`, SIGHUP is ignored.
pub fn ignores(pid: u32, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is alive");
    let ignored =
        status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("the kernel reports it");
    let ignored = u64::from_str_radix(ignored.trim(), 16).expect("a set of signals");
    ignored >> (signal.as_raw() - 1) & 1 == 1
}

/// Stops a process, and waits until none of its threads runs: on a loaded machine, some still do after the signal was sent.
pub async fn stop(pid: u32) {
    let process = rustix::process::Pid::from_raw(pid.cast_signed()).expect("the number of a process");
    rustix::process::kill_process(process, Signal::STOP).expect("the process is alive");
    crate::wait::until("all threads have stopped", async || {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process is alive").flatten();
        let states = threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok());
        // The state follows the name, which is in parentheses.
        let states: String = states
            .filter_map(|stat| stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()))
            .collect();
        crate::wait::when(states, |states| states.chars().all(|state| state == 'T'))
    })
    .await;
}

/// Sum of the lengths of all files below `folder`, including preallocated space.
pub fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0, // deleted in the meantime
        })
        .sum()
}

/// CPU time that the threads of process `pid` have used so far.
pub fn cpu_time(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process is alive").flatten();
    // A thread may end in the meantime.
    let of_thread = |text: String| text.split_whitespace().next()?.parse::<u64>().ok();
    let texts = threads.filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok());
    Duration::from_nanos(texts.filter_map(of_thread).sum())
}

/// Number of files that process `pid` has open.
pub fn open_file_count(pid: u32) -> u64 {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process is alive").count() as u64
}

/// Changes the soft limit of a resource for process `pid`; `None` sets it to the hard limit.
pub fn limit(pid: u32, resource: Resource, current: Option<u64>) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    // The process inherited our hard limit; only root may raise it.
    let maximum = rustix::process::getrlimit(resource).maximum;
    rustix::process::prlimit(Some(pid), resource, Rlimit { current: current.or(maximum), maximum })
        .expect("the limit of a child process can be changed");
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}"));
    line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}
