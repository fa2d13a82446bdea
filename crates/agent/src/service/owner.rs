//! Whose server listens on a port.
//!
//! Instances may share the node's network, and so its ports. A service that finds its port taken dies of it; until then, and
//! after each further start, whoever connects to that port reaches somebody else's server. So a service is up only if what
//! accepts its connections is its own.

use std::collections::HashSet;
use std::fs;

use landfast_core::InstanceId;

use crate::kill::is_member;

/// The kernel's number for a socket that listens.
const LISTENING: &str = "0A";

/// Whether what listens on a port belongs to a service: to its session, or, where it has begun one of its own, to its
/// instance. Where the kernel does not tell what listens, it does.
///
/// It reads the process table, so it takes some time.
pub(super) fn is_ours(port: u16, session: i32, instance: InstanceId) -> bool {
    let mut sockets = listening(port, &fs::read_to_string("/proc/net/tcp").unwrap_or_default());
    sockets.extend(listening(port, &fs::read_to_string("/proc/net/tcp6").unwrap_or_default()));
    if sockets.is_empty() {
        return true;
    }
    let mark = format!("LANDFAST_INSTANCE={instance}");
    let Ok(entries) = fs::read_dir("/proc") else { return true };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.into_iter().any(|pid| holds_one(pid, &sockets) && (is_member(pid, session) || carries(pid, &mark)))
}

/// The sockets that listen on a port, by the links that lead to them.
fn listening(port: u16, table: &str) -> HashSet<String> {
    let socket = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (_, at) = fields.get(1)?.rsplit_once(':')?;
        let is_it = u16::from_str_radix(at, 16) == Ok(port) && fields.get(3) == Some(&LISTENING);
        is_it.then(|| format!("socket:[{}]", fields.get(9).unwrap_or(&"")))
    };
    table.lines().skip(1).filter_map(socket).collect()
}

/// Whether a process has one of these open. One that may not be looked at is not of this instance.
fn holds_one(pid: i32, sockets: &HashSet<String>) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let links = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    links.into_iter().any(|link| link.to_str().is_some_and(|link| sockets.contains(link)))
}

fn carries(pid: i32, mark: &str) -> bool {
    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environ.split(|&byte| byte == 0).any(|line| line == mark.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_server_belongs_to_the_session_and_the_instance_of_its_process() {
        let own = nix::unistd::getsid(None).unwrap().as_raw();
        let (instance, other) = (InstanceId::new(1, 1), InstanceId::new(1, 2));
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let port = listener.local_addr().unwrap().port();
            assert!(is_ours(port, own, instance));
            assert!(!is_ours(port, -1, instance), "this process is in none");
            drop(listener);
            assert!(is_ours(port, -1, other), "nothing listens, so nothing is known");
        }
    }

    #[test]
    fn only_what_listens_on_the_port_counts() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
                     0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 11 1 0\n\
                     1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000 0 0 12 1 0\n\
                     2: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 13 1 0\n";
        assert_eq!(listening(8080, table), ["socket:[11]".to_owned()].into());
    }
}
