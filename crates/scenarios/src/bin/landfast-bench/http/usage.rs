//! What processes use, from `/proc`: time on a processor and resident memory, of a program and all its descendants.

use std::fs;
use std::path::Path;

/// How many times a second the kernel counts in `/proc` (`USER_HZ`): 100 on every architecture that Rust's Linux targets
/// are built for.
const TICKS_PER_SECOND: f64 = 100.0;

/// These processes and all their descendants, as they are now.
pub(crate) fn family(roots: &[u32]) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .expect("this is Linux")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat(pid)?.get(1)?.parse().ok()?)))
        .collect();
    let mut family = roots.to_vec();
    let mut next = 0;
    while next < family.len() {
        let parent = family[next];
        family.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    family
}

/// Seconds on a processor that the processes have had so far, in the program and in the kernel.
pub(crate) fn processor_seconds(pids: &[u32]) -> f64 {
    let ticks = |pid: &u32| -> Option<f64> {
        let fields = stat(*pid)?;
        Some(fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?)
    };
    pids.iter().filter_map(ticks).sum::<f64>() / TICKS_PER_SECOND
}

/// Resident memory of the processes in bytes; what they share counts once for each.
pub(crate) fn resident(pids: &[u32]) -> u64 {
    let kibibytes = |pid: &u32| -> Option<u64> {
        let status = fs::read_to_string(process(*pid).join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse().ok()
    };
    pids.iter().filter_map(kibibytes).sum::<u64>() * 1024
}

/// Seconds for which the processors of the machine have been busy, whoever kept them so.
pub(crate) fn machine_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/stat").expect("this is Linux");
    let first = stat.lines().next().unwrap_or_default();
    let ticks = first.split_whitespace().skip(1).map(|field| field.parse::<f64>().unwrap_or(0.0));
    // user nice system idle iowait irq softirq steal, then guests, which are counted in user.
    ticks.take(8).enumerate().filter(|(column, _)| !matches!(column, 3 | 4)).map(|(_, ticks)| ticks).sum::<f64>()
        / TICKS_PER_SECOND
}

/// The fields of a process's `stat` after the command's name: the state is the first.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(process(pid).join("stat")).ok()?;
    // The name stands in parentheses and may hold any of these characters itself.
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

fn process(pid: u32) -> std::path::PathBuf {
    Path::new("/proc").join(pid.to_string())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::*;

    #[test]
    fn a_family_has_the_children_of_its_children() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "sh -c 'sleep 60 & echo; wait'; true"]).stdout(Stdio::piped());
        let mut child = shell.spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let family = family(&[child.id()]);
        assert_eq!(family.len(), 3, "{family:?}");
        let sleeper = *family.last().unwrap();
        kill(Pid::from_raw(sleeper as i32), Signal::SIGKILL).unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_process_that_computes_is_seen_to() {
        let own = [std::process::id()];
        let (before, busy) = (processor_seconds(&own), machine_seconds());
        while processor_seconds(&own) < before + 0.05 {}
        assert!(machine_seconds() > busy && resident(&own) > 0);
    }
}
