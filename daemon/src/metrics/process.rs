//! The kernel's data about this process, under the names that Prometheus' own libraries use.

use std::fs;

use super::Exposition;

/// Writes the metrics to a page and omits those that cannot be read.
pub fn expose(page: &mut Exposition) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kibibytes = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<f64>().ok())
    };
    if let Some(resident) = kibibytes("VmRSS") {
        let help = "Resident memory, including pages of mapped files.";
        page.gauge("process_resident_memory_bytes", help, resident * 1024.0);
    }
    if let Some(size) = kibibytes("VmSize") {
        page.gauge("process_virtual_memory_bytes", "Virtual memory.", size * 1024.0);
    }
    if let Some(seconds) = cpu_seconds() {
        let mut family = page.family("process_cpu_seconds_total", super::Kind::Counter, "CPU time used.");
        family.sample(&[], seconds);
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        page.gauge("process_open_fds", "Open files and sockets.", entries.count() as f64);
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = limit.current.map_or(f64::INFINITY, |limit| limit as f64);
    page.gauge("process_max_fds", "Maximum number of open files and sockets.", most);
}

/// CPU time of all threads, in user and kernel mode.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    ticks(&stat).map(|ticks| ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Sum of fields 14 and 15 of `/proc/<pid>/stat`. Field 2, the program's name, may contain any character.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_name_may_contain_separators() {
        let stat = "7 (a ) 3 b) S 1 7 7 0 -1 4194560 1 2 3 4 25 17 8 9 20 0";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("7 (a"), None);
    }

    #[test]
    fn all_process_metrics_are_exposed() {
        let mut page = Exposition::default();
        expose(&mut page);
        let text = page.into_text();
        for name in
            ["resident_memory_bytes", "virtual_memory_bytes", "cpu_seconds_total", "open_fds", "max_fds"]
        {
            assert!(text.contains(&format!("\nprocess_{name} ")), "{name}: {text}");
        }
    }
}
