//! What an instance can see and do, tried from inside.

use landfast_core::record::{InstanceSpec, Network, Phase};
use landfast_node::{Config, Isolation};

use crate::harness::{TestCell, processes_of};

#[tokio::test(flavor = "multi_thread")]
async fn the_cells_secrets_and_other_instances_are_out_of_reach() {
    let cell = TestCell::new();
    let node = cell.node("a").await;
    assert_eq!(cell.node_record(node.id()).await.isolation, "bubblewrap");
    let (instance, other) = (cell.run(&node).await, cell.run(&node).await);
    cell.shell(&other, "echo private > file").await;
    let data = cell.data().display();
    for path in ["cell.key", "api-key", "token-key.pem", "cell.db", &format!("instances/{}/home/file", other.id)] {
        assert!(cell.data().join(path).exists(), "{path}");
        let (said, code) = cell.shell(&instance, &format!("cat {data}/{path}")).await;
        assert!(code != 0 && said.contains("No such file"), "{path}: {said}");
    }
    let (said, _) = cell.shell(&instance, "grep -rls cell.key / --include=environ 2>/dev/null; env").await;
    assert!(!said.to_lowercase().contains("key"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_cannot_be_changed_and_its_people_are_not_seen() {
    let cell = TestCell::new();
    let node = cell.node("a").await;
    let instance = cell.run(&node).await;
    for refused in [
        "touch /etc/landfast-was-here",
        "touch /usr/landfast-was-here",
        "echo x > /proc/sys/kernel/core_pattern",
        "cat /etc/shadow",
        "umount /root",
        "mount -t tmpfs none /mnt",
        "mknod disk b 254 0",
    ] {
        assert_ne!(cell.shell(&instance, refused).await.1, 0, "{refused}");
    }
    cell.shell(&instance, "kill -9 1").await;
    assert_eq!(cell.shell(&instance, "ls -A /root; ls /home; id -un; id -u").await.0.lines().next(), Some("user"));
    assert_eq!(cell.shell(&instance, "grep -h ^CapEff /proc/self/status").await.0, "CapEff:\t0000000000000000\n");
    assert_eq!(cell.shell(&instance, "grep -h ^NoNewPrivs /proc/self/status").await.0, "NoNewPrivs:\t1\n");
    let (count, _) = cell.shell(&instance, "ls -d /proc/[0-9]* | wc -l").await;
    assert!(count.trim().parse::<u32>().unwrap() < 8, "only its own processes: {count}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_run_works() {
    let cell = TestCell::new();
    let node = cell.node("a").await;
    let instance = cell.run(&node).await;
    for works in [
        "bash -c 'echo $((6 * 7))' | grep -q 42",
        "touch /tmp/a /var/tmp/b /dev/shm/c ~/d && test $(pwd) = /home/user",
        "script -qec 'tty && stty size' /dev/null | grep -q /dev/pts/",
        "python3 -c 'import multiprocessing, tempfile; multiprocessing.Lock(); tempfile.mkstemp()'",
        "unshare -Ur true",
        "echo x > /dev/null && head -c 1 /dev/urandom > /dev/null",
    ] {
        let (said, code) = cell.shell(&instance, works).await;
        assert_eq!(code, 0, "{works}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_inherits_no_descriptor_and_no_secret_of_the_daemons() {
    let cell = TestCell::new();
    let node = cell.node("a").await;
    let instance = cell.run(&node).await;
    let (files, _) = cell.shell(&instance, "for f in /proc/[0-9]*/fd/*; do readlink $f; done").await;
    for line in files.lines() {
        let own = ["socket:", "pipe:", "anon_inode:", "/dev/", "/proc/", "/run/landfast/", "pidfd:"];
        // The log it writes, and the file that tells it how long its node may serve, which it can only read.
        let given = line.ends_with("/agent.log") || line.ends_with("/nodes/a/lease");
        assert!(given || own.iter().any(|prefix| line.starts_with(prefix)), "{files}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_an_instances_environment_stands_on_no_command_line() {
    let cell = TestCell::new();
    let plain = cell.try_node(Config { isolation: Isolation::None, ..cell.config("plain") }).await.unwrap();
    for node in [cell.node("a").await, plain] {
        let spec = InstanceSpec { env: [("TOKEN".into(), "s3cr3t-value".into())].into(), ..InstanceSpec::default() };
        let instance = cell.run_with(&node, spec).await;
        assert_eq!(cell.shell(&instance, "echo $TOKEN").await.0, "s3cr3t-value\n");
        let lines: Vec<_> = processes_of(instance.id)
            .into_iter()
            .map(|pid| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default())
            .collect();
        assert!(lines.iter().any(|line| line.contains("--instance")), "{lines:?}");
        assert!(!lines.iter().any(|line| line.contains("s3cr3t")), "{lines:?}");
        let ps = std::process::Command::new("ps").args(["axww", "-o", "args"]).output().unwrap();
        assert!(!String::from_utf8_lossy(&ps.stdout).contains("s3cr3t-value"));
        let spec = cell.instance_dir(instance.id).join("spec.json");
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(spec).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_network_there_is_a_loopback_of_its_own() {
    let cell = TestCell::new();
    let node = cell.node("a").await;
    let instance = cell.run_with(&node, InstanceSpec { network: Network::None, ..InstanceSpec::default() }).await;
    let (said, _) = cell.shell(&instance, "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '").await;
    assert_eq!(said, "lo\n");
    let echo = "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())";
    assert_eq!(cell.shell(&instance, &format!("python3 -c \"{echo}\"")).await.1, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_network_leads_out_and_not_to_the_hosts_loopback() {
    let cell = TestCell::new();
    let node = cell.node("a").await;
    assert_eq!(cell.node_record(node.id()).await.isolation, "bubblewrap");
    let ours = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let outside = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // An address of the host that is no loopback, whichever: nothing is sent.
    outside.connect("192.0.2.1:9").unwrap();
    let host = outside.local_addr().unwrap().ip();
    let listener = std::net::TcpListener::bind((host, 0)).unwrap();
    let spec = InstanceSpec { network: Network::Private, ..InstanceSpec::default() };
    let instance = cell.run_with(&node, spec).await;
    let dial = |address: std::net::SocketAddr| {
        format!("timeout 5 bash -c 'exec 3<>/dev/tcp/{}/{}' 2>/dev/null && echo there", address.ip(), address.port())
    };
    assert_eq!(cell.shell(&instance, &dial(listener.local_addr().unwrap())).await.0, "there\n");
    let loopback = ours.local_addr().unwrap();
    for address in [loopback, ([10, 0, 2, 2], loopback.port()).into()] {
        assert_eq!(cell.shell(&instance, &dial(address)).await.0, "", "{address}");
    }
    assert!(cell.shell(&instance, "cat /etc/resolv.conf").await.0.contains("nameserver 10.0.2.3"));
    cell.desire(instance.id, landfast_core::record::Desired::Deleted).await;
    cell.until(instance.id, |instance| instance.phase == Phase::Deleted).await;
    assert!(processes_of(instance.id).is_empty(), "its network's process stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_cannot_put_a_link_to_another_ones_agent_in_the_place_of_its_own() {
    let cell = TestCell::new();
    let node = cell.node("a").await;
    let (instance, other) = (cell.run(&node).await, cell.run(&node).await);
    let target = cell.instance_dir(other.id).join("run");
    let lie = format!("cd /run/landfast/run && for s in *.sock; do rm $s; ln -s {}/$s $s; done", target.display());
    cell.shell(&instance, &lie).await;
    let dialled = cell.dial(&instance, landfast_net::relay::Target::Agent).await;
    assert!(dialled.is_err(), "the other's agent answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_isolation_says_so_and_still_ends_what_it_started() {
    let cell = TestCell::new();
    let config = Config { isolation: Isolation::None, ..cell.config("a") };
    let node = cell.try_node(config).await.unwrap();
    assert_eq!(cell.node_record(node.id()).await.isolation, "none: by configuration");
    let instance = cell.run(&node).await;
    cell.shell(&instance, "setsid sleep 4711 >/dev/null 2>&1 &").await;
    cell.desire(instance.id, landfast_core::record::Desired::Deleted).await;
    cell.until(instance.id, |instance| instance.phase == Phase::Deleted).await;
    assert!(processes_of(instance.id).is_empty());

    let alone = cell.place(node.id(), InstanceSpec { network: Network::None, ..InstanceSpec::default() }).await;
    let failed = cell.settled(alone).await;
    assert_eq!(failed.phase, Phase::Failed);
    assert!(failed.reason.is_some_and(|reason| reason.contains("isolation")));
}
