//! What `/metrics` tells of the process, by the names that Prometheus's own clients give it.
//!
//! Read from proc(5) when somebody asks. What cannot be read, as on another system than Linux, is
//! left out: a zero would look like an answer.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::metrics::gauge;

/// proc(5) counts in hundredths of a second on every architecture that Rust's Linux targets have.
const TICKS_PER_SECOND: f64 = 100.0;
const BYTES_PER_KIB: u64 = 1024;

/// The numbers of this process.
#[derive(Debug)]
pub(super) struct ProcessMetrics;

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let out = &mut encoder;
        if let Some(stat) = read("/proc/self/stat").as_deref().and_then(Stat::of) {
            let help = "User and system CPU time";
            let out_of = MetricType::Counter;
            let value = ConstCounter::new(stat.cpu_seconds);
            value.encode(out.encode_descriptor("process_cpu_seconds", help, None, out_of)?)?;
            if let Some(booted) = read("/proc/stat").as_deref().and_then(boot_seconds) {
                let help = "When the process started, in seconds since the Unix epoch";
                let value = ConstGauge::new(booted + stat.started_seconds);
                let name = "process_start_time_seconds";
                value.encode(out.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
            }
        }
        let status = read("/proc/self/status").unwrap_or_default();
        let limits = read("/proc/self/limits").unwrap_or_default();
        let kib = |name| field(&status, name).map(|value| value * BYTES_PER_KIB);
        for (name, help, value) in [
            (
                "process_resident_memory_bytes",
                "Resident memory",
                kib("VmRSS:"),
            ),
            (
                "process_virtual_memory_bytes",
                "Virtual memory",
                kib("VmSize:"),
            ),
            ("process_threads", "Threads", field(&status, "Threads:")),
            ("process_open_fds", "Open file descriptors", open_files()),
            (
                "process_max_fds",
                "Most file descriptors that may be open",
                field(&limits, "Max open files"),
            ),
        ] {
            if let Some(value) = value {
                gauge(out, name, help, value)?;
            }
        }
        Ok(())
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// The first number behind a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let mut rests = text.lines().filter_map(|line| line.strip_prefix(name));
    rests.next()?.split_whitespace().next()?.parse().ok()
}

fn open_files() -> Option<u64> {
    // The one that reads the folder is not there before and after.
    let open = fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    Some(open.saturating_sub(1))
}

fn boot_seconds(stat: &str) -> Option<f64> {
    field(stat, "btime").map(|seconds| seconds as f64)
}

struct Stat {
    cpu_seconds: f64,
    started_seconds: f64,
}

impl Stat {
    fn of(text: &str) -> Option<Self> {
        // The name in front may hold anything; the third field is the first behind it.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu_seconds: (ticks(14)? + ticks(15)?) / TICKS_PER_SECOND,
            started_seconds: ticks(22)? / TICKS_PER_SECOND,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_proc_are_those_that_are_meant() {
        let text = "7 (a b) c) S 1 2 3 4 5 6 7 8 9 10 150 50 13 14 15 16 17 18 4200 20";
        let stat = Stat::of(text).unwrap();
        assert_eq!((stat.cpu_seconds, stat.started_seconds), (2.0, 42.0));
        assert!(Stat::of("7 (a) S 1 2").is_none());
        let status = "VmSize:\t  200 kB\nVmRSS:\t  100 kB\nThreads:\t3\n";
        assert_eq!(field(status, "VmRSS:"), Some(100));
        assert_eq!(field(status, "Threads:"), Some(3));
        assert_eq!(field(status, "VmLck:"), None);
        let limits = "Max open files            1024                 4096       files\n";
        assert_eq!(field(limits, "Max open files"), Some(1024));
        assert_eq!(field("Max open files  unlimited", "Max open files"), None);
        assert_eq!(boot_seconds("cpu 1 2\nbtime 1700000000\n"), Some(1.7e9));
    }

    #[test]
    fn this_process_is_read() {
        let stat = Stat::of(&read("/proc/self/stat").unwrap()).unwrap();
        assert!(stat.started_seconds > 0.0);
        assert!(open_files().unwrap() > 2);
        assert!(field(&read("/proc/self/status").unwrap(), "VmRSS:").unwrap() > 0);
    }
}
