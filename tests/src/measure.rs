//! What the benchmarks share: pairs of measurements that a noisy machine cannot pull apart, the resources of a process,
//! and the line that each figure is printed as.
//!
//! A figure and its baseline are taken in the same run, round by round and in changing order; the ratio is the median of
//! the ratios of the rounds. What else runs on the machine then slows both.

pub mod allocations;
pub mod bare;
pub mod callers;
pub mod disk;
pub mod fleet;
pub mod guarded;
pub mod issued;
pub mod kept;
pub mod minting;
pub mod process;
pub mod role;
pub mod rules;
pub mod signatures;
pub mod users;
pub mod workload;

use std::{
    fmt,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};

/// Whether to be quick rather than exact: `BENCH_QUICK=1`.
pub fn quick() -> bool {
    std::env::var_os("BENCH_QUICK").is_some_and(|value| value != "0")
}

/// So many rounds, fewer when it has to be quick.
pub fn rounds(full: usize) -> usize {
    if quick() { full.div_ceil(10).max(3) } else { full }
}

/// Processor time of this thread; what other processes do does not count.
pub fn thread_cpu() -> Duration {
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("the thread's clock");
    Duration::from(now)
}

/// Processor time that `work` takes on this thread, in microseconds.
pub fn cpu_micros(work: impl FnOnce()) -> f64 {
    let before = thread_cpu();
    work();
    (thread_cpu() - before).as_secs_f64() * 1e6
}

/// Does `work`, and all that the threads do which it starts, on the first core: one thread then wakes another without an interrupt to another
/// core, which on a virtual machine can take longer than a request.
pub fn on_one_core<T>(work: impl FnOnce() -> T) -> T {
    let this = Pid::from_raw(0);
    let before = sched_getaffinity(this).expect("the cores of this thread");
    let mut first = CpuSet::new();
    let core = (0..CpuSet::count()).find(|core| before.is_set(*core).unwrap_or_default()).expect("a core");
    first.set(core).expect("a core");
    sched_setaffinity(this, &first).expect("one core");
    let done = work();
    sched_setaffinity(this, &before).expect("the cores it had");
    done
}

/// Time that `work` takes, in milliseconds.
pub fn millis<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let began = Instant::now();
    let done = work();
    (done, began.elapsed().as_secs_f64() * 1e3)
}

/// A figure with its baseline, each the median over the rounds, and the median of the rounds' ratios.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// What was measured.
    pub value: f64,
    /// The baseline beside it.
    pub baseline: f64,
    /// Median of value / baseline.
    pub ratio: f64,
}

/// Measures `value` and `baseline` in turns.
pub fn paired(rounds: usize, mut value: impl FnMut() -> f64, mut baseline: impl FnMut() -> f64) -> Pair {
    let mut taken = Vec::with_capacity(rounds);
    for round in 0..rounds {
        let pair = if round % 2 == 0 {
            let first = value();
            (first, baseline())
        } else {
            let first = baseline();
            (value(), first)
        };
        taken.push(pair);
    }
    of_pairs(&taken)
}

/// Measures `value` and `baseline` in turns, many times and shortly, and takes the least of each: for what takes less than a
/// microsecond, where whatever else the machine does only ever adds.
pub fn least(rounds: usize, mut value: impl FnMut() -> f64, mut baseline: impl FnMut() -> f64) -> Pair {
    let mut least = (f64::INFINITY, f64::INFINITY);
    for _ in 0..rounds {
        least = (least.0.min(value()), least.1.min(baseline()));
    }
    Pair { value: least.0, baseline: least.1, ratio: least.0 / least.1 }
}

/// Medians of pairs of (value, baseline).
pub fn of_pairs(taken: &[(f64, f64)]) -> Pair {
    Pair {
        value: median(taken.iter().map(|(value, _)| *value)),
        baseline: median(taken.iter().map(|(_, baseline)| *baseline)),
        ratio: median(taken.iter().map(|(value, baseline)| value / baseline)),
    }
}

/// The middle one.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    assert!(!sorted.is_empty(), "nothing was measured");
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

/// Durations, kept in microseconds.
#[derive(Debug)]
pub struct Times(Histogram<u64>);

impl Times {
    /// None yet.
    pub fn new() -> Self {
        Self(Histogram::new_with_bounds(1, 120_000_000, 3).expect("a histogram"))
    }

    /// One more.
    pub fn record(&mut self, taken: Duration) {
        let micros = u64::try_from(taken.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(micros);
    }

    /// The duration, in milliseconds, that this share of them does not exceed.
    pub fn quantile(&self, share: f64) -> f64 {
        self.0.value_at_quantile(share) as f64 / 1e3
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }
}

impl Default for Times {
    fn default() -> Self {
        Self::new()
    }
}

/// What a figure is to reach.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// At most so many times the baseline.
    RatioAtMost(f64),
    /// At least so many times the baseline.
    RatioAtLeast(f64),
    /// At most so much, whatever the baseline.
    AtMost(f64),
    /// None: it explains another figure.
    None,
}

/// A figure, printed as `name value baseline ratio goal`.
#[derive(Debug)]
pub struct Figure<'a> {
    /// What it is, without spaces.
    pub name: &'a str,
    /// How much.
    pub value: f64,
    /// How much the baseline takes, if there is one.
    pub baseline: Option<f64>,
    /// Value / baseline, where it is not just that.
    pub ratio: Option<f64>,
    /// Of value, baseline and absolute goal.
    pub unit: &'static str,
    /// What is to be reached.
    pub goal: Goal,
}

impl<'a> Figure<'a> {
    /// A figure beside its baseline.
    pub fn paired(name: &'a str, pair: Pair, unit: &'static str, goal: Goal) -> Self {
        Self { name, value: pair.value, baseline: Some(pair.baseline), ratio: Some(pair.ratio), unit, goal }
    }

    /// A figure that has no baseline.
    pub fn alone(name: &'a str, value: f64, unit: &'static str, goal: Goal) -> Self {
        Self { name, value, baseline: None, ratio: None, unit, goal }
    }

    /// A figure beside a baseline that was not taken in pairs.
    pub fn beside(name: &'a str, value: f64, baseline: f64, unit: &'static str, goal: Goal) -> Self {
        Self { name, value, baseline: Some(baseline), ratio: Some(value / baseline), unit, goal }
    }

    /// Prints it.
    pub fn print(&self) {
        println!("{self}");
    }

    fn reached(&self) -> Option<bool> {
        match (self.goal, self.ratio) {
            (Goal::RatioAtMost(most), Some(ratio)) => Some(ratio <= most),
            (Goal::RatioAtLeast(least), Some(ratio)) => Some(ratio >= least),
            (Goal::AtMost(most), _) => Some(self.value <= most),
            _ => None,
        }
    }
}

impl fmt::Display for Figure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = self.unit;
        let value = format!("{}{unit}", short(self.value));
        let baseline = self.baseline.map_or("-".to_owned(), |baseline| format!("{}{unit}", short(baseline)));
        let ratio = self.ratio.map_or("-".to_owned(), |ratio| format!("{}x", short(ratio)));
        let goal = match self.goal {
            Goal::RatioAtMost(most) => format!("<={most}x"),
            Goal::RatioAtLeast(least) => format!(">={least}x"),
            Goal::AtMost(most) => format!("<={most}{unit}"),
            Goal::None => "-".to_owned(),
        };
        let verdict = match self.reached() {
            Some(true) => "reached",
            Some(false) => "MISSED",
            None => "",
        };
        let name = self.name;
        write!(f, "{name:<44} {value:>12} {baseline:>12} {ratio:>9} {goal:>10} {verdict}")
    }
}

/// The heading of the lines.
pub fn heading(what: &str) {
    println!("\n# {what}");
    println!("{:<44} {:>12} {:>12} {:>9} {:>10}", "name", "value", "baseline", "ratio", "goal");
}

/// Three significant digits, or all digits before the point.
fn short(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_whether_the_goal_is_reached() {
        let pair = of_pairs(&[(1.0, 2.0), (3.0, 2.0), (2.0, 2.0)]);
        assert_eq!((pair.value, pair.baseline, pair.ratio), (2.0, 2.0, 1.0));
        let line = Figure::paired("a/b", pair, "us", Goal::RatioAtMost(1.05)).to_string();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words, ["a/b", "2.00us", "2.00us", "1.00x", "<=1.05x", "reached"]);
        let line = Figure::beside("rate", 50.0, 100.0, "/s", Goal::RatioAtLeast(0.6)).to_string();
        assert!(line.ends_with(">=0.6x MISSED"), "{line}");
        let line = Figure::alone("memory", 15.25, "MiB", Goal::AtMost(16.0)).to_string();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words, ["memory", "15.2MiB", "-", "-", "<=16MiB", "reached"]);
    }
}
