//! CPU and memory of the server's process and of this one, as the kernel reports them.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A measured process on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub pid: u32,
    /// Name of its program.
    pub name: String,
}

/// What a process has used so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time, in steps of the kernel's clock tick.
    cpu: Duration,
    /// CPU time of each living thread, to the nanosecond.
    threads_ns: BTreeMap<u32, u64>,
    pub resident_bytes: u64,
    /// Highest resident memory that was observed.
    pub peak_bytes: u64,
}

impl Usage {
    /// Raises the peak to `bytes` if that is higher.
    pub fn with_peak(mut self, bytes: u64) -> Self {
        self.peak_bytes = self.peak_bytes.max(bytes);
        self
    }

    /// CPU time since an earlier usage. Exact to the nanosecond, unless threads have ended meanwhile.
    pub fn cpu_since(&self, earlier: &Usage) -> Duration {
        let mut total_ns = 0;
        for thread in earlier.threads_ns.keys() {
            if !self.threads_ns.contains_key(thread) {
                return self.cpu.saturating_sub(earlier.cpu);
            }
        }
        for (thread, ns) in &self.threads_ns {
            total_ns += ns.saturating_sub(earlier.threads_ns.get(thread).copied().unwrap_or(0));
        }
        let exact = Duration::from_nanos(total_ns);
        // A thread that started and ended in between is only in the coarse figure.
        let coarse = self.cpu.saturating_sub(earlier.cpu);
        if coarse > exact + 2 * CLOCK_TICK { coarse } else { exact }
    }
}

/// The unit of times in /proc: 100 per second on every Linux that Rust runs on.
const CLOCK_TICK: Duration = Duration::from_millis(10);

impl Server {
    /// The process with that id.
    pub fn with_pid(pid: u32) -> Option<Self> {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some(Server { pid, name: name.trim_end().to_owned() })
    }

    /// The process that listens on a TCP port of this machine. `None` if there is none, or if it belongs to another
    /// user.
    pub fn listening_on(port: u16) -> Option<Self> {
        let tables =
            ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
        let inodes: Vec<u64> = tables.iter().flat_map(|table| listening_inodes(table, port)).collect();
        let sockets: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
        let mut pids = numbers_in("/proc");
        Server::with_pid(pids.find(|pid| has_socket(*pid, &sockets))?)
    }

    /// What it has used. `None` if the process has ended, or the system is not Linux.
    pub fn usage(&self) -> Option<Usage> {
        let pid = self.pid;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let threads = numbers_in(&format!("/proc/{pid}/task")).filter_map(|thread| {
            let times = fs::read_to_string(format!("/proc/{pid}/task/{thread}/schedstat")).ok()?;
            Some((thread, times.split_whitespace().next()?.parse().ok()?))
        });
        let resident_bytes = status_bytes(&status, "VmRSS:").unwrap_or(0);
        let cpu = cpu_in_stat(&stat)?;
        Some(Usage { cpu, threads_ns: threads.collect(), resident_bytes, peak_bytes: resident_bytes })
    }

    /// Its resident memory now.
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        status_bytes(&status, "VmRSS:").unwrap_or(0)
    }
}

/// CPU time of this process.
pub fn own_cpu() -> Duration {
    cpu_clock(ClockId::ProcessCPUTime)
}

/// CPU time of this thread.
pub fn thread_cpu() -> Duration {
    cpu_clock(ClockId::ThreadCPUTime)
}

fn cpu_clock(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// Makes this thread's sleeps end on time. By default, the kernel may extend them by 50 µs to wake up less often,
/// which would be the larger part of many latencies.
pub fn sleep_precisely() {
    #[cfg(target_os = "linux")]
    {
        // If this fails, the figures are slightly worse, and the times until sending show it.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    }
}

fn has_socket(pid: u32, sockets: &[String]) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let mut targets = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    targets.any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()))
}

/// The entries of a folder that are numbers.
fn numbers_in(folder: &str) -> impl Iterator<Item = u32> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The inodes of sockets that listen on `port`, from /proc/net/tcp or tcp6.
fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    const LISTEN: &str = "0A";
    let inode = |line: &str| {
        let mut fields = line.split_whitespace();
        let local = fields.nth(1)?;
        let state = fields.nth(1)?;
        let (_, local_port) = local.rsplit_once(':')?;
        let is_it = state == LISTEN && u16::from_str_radix(local_port, 16) == Ok(port);
        is_it.then(|| fields.nth(5)?.parse().ok()).flatten()
    };
    table.lines().skip(1).filter_map(inode).collect()
}

/// User and system time from `/proc/<pid>/stat`. The program name in it may contain blanks and parentheses.
fn cpu_in_stat(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut ticks = fields.split_whitespace().skip(11).map(|field| field.parse::<u32>().ok());
    Some(CLOCK_TICK * (ticks.next()?? + ticks.next()??))
}

/// A field of `/proc/<pid>/status`, converted from KiB to bytes.
fn status_bytes(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(value.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1036 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 1 0000000000000000 100 0 0 10 0
   1: 0100007F:1036 0100007F:D2F0 01 00000000:00000000 00:00000000 00000000     0        0 23456 1 0000000000000000 20 4 30 10 -1
   2: 00000000:1037 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 34567 1 0000000000000000 100 0 0 10 0
";
    const TCP6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:1036 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 45678 1 0000000000000000 100 0 0 10 0
";

    #[test]
    fn listening_sockets_are_found_by_port() {
        assert_eq!(listening_inodes(TCP, 4150), [12345]);
        assert_eq!(listening_inodes(TCP, 4151), [34567]);
        assert_eq!(listening_inodes(TCP6, 4150), [45678]);
        assert!(listening_inodes(TCP, 1).is_empty());
        assert!(listening_inodes("", 4150).is_empty());
        assert!(listening_inodes("header\n0: nonsense\n", 4150).is_empty());
    }

    #[test]
    fn cpu_time_is_found_after_any_program_name() {
        let stat = "42 (a) b) c) S 1 42 42 0 -1 4194560 1000 0 0 0 125 75 0 0 20 0 9 0 100 1 1";
        assert_eq!(cpu_in_stat(stat), Some(Duration::from_secs(2)));
        assert_eq!(cpu_in_stat("42 (x) S 1"), None);
    }

    #[test]
    fn memory_is_converted_from_kibibytes() {
        let status = "Name:\tnsqd\nVmHWM:\t   30 kB\nVmRSS:\t   20 kB\n";
        assert_eq!(status_bytes(status, "VmRSS:"), Some(20 << 10));
        assert_eq!(status_bytes(status, "VmSwap:"), None);
    }

    fn usage(cpu_ms: u64, threads: &[(u32, u64)]) -> Usage {
        let threads_ns = threads.iter().copied().collect();
        Usage { cpu: Duration::from_millis(cpu_ms), threads_ns, ..Usage::default() }
    }

    #[test]
    fn cpu_time_is_exact_while_all_threads_live() {
        let before = usage(100, &[(1, 5_000), (2, 7_000)]);
        let exact = usage(100, &[(1, 6_000), (2, 7_500), (3, 200)]);
        assert_eq!(exact.cpu_since(&before), Duration::from_nanos(1_700));
        assert_eq!(usage(130, &[(1, 6_000)]).cpu_since(&before), Duration::from_millis(30));
        // Thread 3 started and ended in between.
        assert_eq!(usage(150, &[(1, 6_000), (2, 7_000)]).cpu_since(&before), Duration::from_millis(50));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn usage_of_this_process_is_measured() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server::listening_on(listener.local_addr().unwrap().port()).unwrap();
        assert_eq!(server.pid, std::process::id());
        let before = server.usage().unwrap();
        assert!(before.resident_bytes > 100_000);
        let own = own_cpu();
        while own_cpu() - own < Duration::from_millis(20) {}
        assert!(server.usage().unwrap().cpu_since(&before) >= Duration::from_millis(10));
    }
}
