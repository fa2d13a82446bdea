//! Chromium's command line: what every browser has, then what its user chose.

use std::path::Path;

use landfast_core::{ErrorCode, Problem};
use rustix::fs::statvfs;

use super::sandbox::Sandbox;

/// Flags of every browser.
const OURS: [&str; 13] = [
    "--headless=new",
    // Any free one; which, it writes down.
    "--remote-debugging-port=0",
    "--no-first-run",
    "--no-default-browser-check",
    // Nothing is fetched that no page asked for.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    // A browser that was killed is started again as if it had been closed.
    "--hide-crash-restore-bubble",
    "--noerrdialogs",
    "--disable-breakpad",
    "--disable-crash-reporter",
    // Nobody could type the keyring's password.
    "--password-store=basic",
    // There is no bus here, and a hundred lines about that hide the one that matters.
    "--log-level=3",
];

/// Flags that would make it another thing than the agent keeps, by their names; a dash at the end stands for whatever follows.
const REFUSED: [(&str, &str); 18] = [
    ("remote-debugging-", "the agent chooses where DevTools listen"),
    ("user-data-dir", "the agent chooses the profile's place"),
    ("headless", "there is no screen"),
    ("no-sandbox", "the sandbox is on wherever it works; GET /browser says whether it is"),
    ("disable-namespace-sandbox", "the sandbox is on wherever it works"),
    ("disable-seccomp-filter-sandbox", "the sandbox is on wherever it works"),
    ("single-process", "it has no sandbox"),
    ("no-zygote", "it has no sandbox"),
    ("temp-profile", "the profile is the instance's"),
    ("type", "it makes another process than a browser"),
    ("debug", "it starts a debugger"),
    ("help", "it ends at once"),
    ("version", "it ends at once"),
    ("product-version", "it ends at once"),
    ("dump-dom", "it ends at once; ask over CDP"),
    ("print-to-pdf", "it ends at once; ask over CDP"),
    ("screenshot", "it ends at once; ask over CDP"),
    ("repl", "it waits for somebody to type"),
];

/// The most flags.
const FLAGS_MAX: usize = 256;

/// The most bytes of one: longer lists belong in a policy.
const FLAG_MAX: usize = 8 * 1024;

/// Less shared memory than this, which renderers share, is used up by one large page.
const SHARED_MEMORY_MIN: u64 = 512 << 20;

/// Checks a user's flags.
///
/// # Errors
///
/// [`ErrorCode::RequestInvalid`], naming the flag.
pub(super) fn check(flags: &[String]) -> Result<(), Problem> {
    let invalid = |detail: String| Err(Problem::new(ErrorCode::RequestInvalid, detail));
    if flags.len() > FLAGS_MAX {
        return invalid(format!("There are {} flags, and {FLAGS_MAX} are the most.", flags.len()));
    }
    for flag in flags {
        let name = flag.strip_prefix("--").map(|rest| rest.split('=').next().unwrap_or(rest));
        let Some(name) = name.filter(|name| !name.is_empty() && !flag.contains('\0')) else {
            return invalid(format!("{flag:.80?} is no flag; a flag is --name or --name=value."));
        };
        if flag.len() > FLAG_MAX {
            return invalid(format!("--{name:.80} has more than {FLAG_MAX} bytes."));
        }
        let is_it = |known: &str| if known.ends_with('-') { name.starts_with(known) } else { name == known };
        if let Some((_, why)) = REFUSED.iter().find(|(known, _)| is_it(known)) {
            return invalid(format!("--{name} cannot be chosen: {why}."));
        }
    }
    Ok(())
}

/// The whole command line.
pub(super) fn command(program: &str, profile: &Path, sandbox: &Sandbox, flags: Vec<String>) -> Vec<String> {
    let mut argv = vec![program.to_owned(), format!("--user-data-dir={}", profile.display())];
    argv.extend(OURS.map(str::to_owned));
    if !sandbox.is_on() {
        argv.push("--no-sandbox".to_owned());
    }
    if !has_shared_memory() {
        argv.push("--disable-dev-shm-usage".to_owned());
    }
    argv.extend(flags);
    // A page to begin with, as clients expect one.
    argv.push("about:blank".to_owned());
    argv
}

/// Whether renderers can share memory by the file system that is meant for it.
fn has_shared_memory() -> bool {
    let is_writable = rustix::fs::access("/dev/shm", rustix::fs::Access::WRITE_OK).is_ok();
    let room = statvfs("/dev/shm").map_or(0, |found| found.f_bavail * found.f_frsize);
    is_writable && room >= SHARED_MEMORY_MIN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_make_it_another_thing_is_refused_by_name() {
        for flag in [
            "--remote-debugging-port=9222",
            "--remote-debugging-pipe",
            "--remote-debugging-address=0.0.0.0",
            "--user-data-dir=/tmp",
            "--headless=old",
            "--no-sandbox",
            "--version",
        ] {
            let problem = check(&["--lang=de".to_owned(), flag.to_owned()]).unwrap_err();
            let name = flag.split('=').next().unwrap();
            assert!(problem.code == ErrorCode::RequestInvalid && problem.detail.starts_with(name), "{problem}");
        }
        for none in ["", "--", "--=x", "lang", "-x", "http://a", "--a\0b"] {
            assert!(check(&[none.to_owned()]).unwrap_err().detail.contains("is no flag"), "{none:?}");
        }
        assert!(check(&[format!("--lang={}", "x".repeat(FLAG_MAX))]).unwrap_err().detail.contains("--lang"));
        assert!(check(&vec!["--a".to_owned(); FLAGS_MAX + 1]).is_err());
    }

    #[test]
    fn a_users_flags_come_after_ours() {
        let chosen = ["--lang=de", "--remote-allow-origins=*", "--window-size=1280,720"].map(str::to_owned).to_vec();
        check(&chosen).unwrap();
        let argv = command("chromium", Path::new("/p"), &Sandbox::off("a test"), chosen.clone());
        assert_eq!(argv[..2], ["chromium", "--user-data-dir=/p"]);
        let at = argv.iter().position(|word| *word == chosen[0]).unwrap();
        assert_eq!(argv[at..at + 3], chosen);
        assert!(argv[..at].contains(&"--no-sandbox".to_owned()) && argv[..at].contains(&OURS[1].to_owned()));
        assert_eq!(argv.last().unwrap(), "about:blank");
    }
}
