//! The binary, in a process of its own: directories it may not have, limits of the system, signals; and
//! `sluicemq fsck`. That a second broker on one directory refuses is in `tests/cli`.

use std::fs;
use std::io;
use std::net::TcpStream;
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use sluicemq::protocol::methods::{BasicGet, ConfirmSelect, Method, QueueDeclare};
use sluicemq::protocol::table::Table;

use crate::client::{Client, Incoming};
use crate::node::Node;

/// Batches of the log begin at a multiple of it.
const PAGE_BYTES: u64 = 4096;
const NOBODY: u32 = 65534;
pub(crate) const SMALL: [(&str, &str); 3] = [
    ("SLUICEMQ_STORAGE_SLOT_BYTES", "1MiB"),
    ("SLUICEMQ_STORAGE_WINDOW_SLOTS", "4"),
    ("SLUICEMQ_STORAGE_DISK_FREE_LIMIT", "1MiB"),
];

pub(crate) fn declare(client: &mut Client, queue: &str) -> io::Result<()> {
    client.call(&Method::QueueDeclare(QueueDeclare {
        queue,
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: Table::EMPTY,
    }))
}

pub(crate) fn select_confirms(client: &mut Client) -> io::Result<()> {
    client.call(&Method::ConfirmSelect(ConfirmSelect { nowait: false }))
}

/// Gets everything, settled at once.
pub(crate) fn drain(client: &mut Client, queue: &str) -> io::Result<Vec<Vec<u8>>> {
    let mut bodies = Vec::new();
    loop {
        client.push(&Method::BasicGet(BasicGet { queue, no_ack: true }));
        match client.next()? {
            Incoming::Got(Some((_, _, body))) => bodies.push(body),
            Incoming::Got(None) => return Ok(bodies),
            other => return Err(io::Error::other(format!("{other:?}"))),
        }
    }
}

/// Publishes persistent messages one by one, and waits for each confirm.
fn publish(client: &mut Client, queue: &str, ids: std::ops::Range<u64>) -> io::Result<()> {
    for id in ids {
        client.push_publish("", queue, true, &id.to_le_bytes());
        match client.next()? {
            Incoming::Confirm { .. } => {}
            other => return Err(io::Error::other(format!("{other:?}"))),
        }
    }
    Ok(())
}

fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicemq"));
    command.env_clear();
    command
}

fn fsck(dir: &Path, repair: bool) -> Output {
    let mut command = binary();
    command.args(["fsck", "--data-dir"]).arg(dir);
    if repair {
        command.arg("--repair");
    }
    command.output().unwrap()
}

fn text(output: &Output) -> (i32, String, String) {
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), said(&output.stdout), said(&output.stderr))
}

/// Where the last page of a file begins that has something in it.
fn last_page(path: &Path) -> u64 {
    let bytes = fs::read(path).unwrap();
    let mut pages = bytes.chunks(PAGE_BYTES as usize);
    pages.rposition(|page| page.iter().any(|byte| *byte != 0)).unwrap() as u64 * PAGE_BYTES
}

fn signal(node: &Node, name: &str) {
    assert!(Command::new("kill").args([name, &node.id().to_string()]).status().unwrap().success());
}

#[test]
fn fsck_says_by_queue_what_is_damaged_and_repairs_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let (code, _, told) = text(&fsck(&data, false));
    assert_eq!((code, told.contains("there is no data directory")), (2, true), "{told}");

    let node = Node::start(&data, &SMALL).unwrap();
    let mut client = Client::connect(node.address).unwrap();
    declare(&mut client, "orders").unwrap();
    select_confirms(&mut client).unwrap();
    publish(&mut client, "orders", 0..4).unwrap();
    // Two processes on one directory.
    let (code, said, told) = text(&fsck(&data, true));
    assert_eq!((code, said.as_str()), (2, ""));
    assert!(told.contains("in use by another process: stop the broker first"), "{told}");
    node.kill().unwrap();

    let (code, said, _) = text(&fsck(&data, false));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("everything is whole") && said.contains("orders         4"), "{said}");
    let slot = data.join("log/slot-00.log");
    // Each of the last batches is one message; how many there are before them is a matter of time.
    let damaged = last_page(&slot) - PAGE_BYTES;
    fs::OpenOptions::new().write(true).open(slot).unwrap().write_all_at(b"rot", damaged + 100).unwrap();
    let started = binary().args(["--listen", "127.0.0.1:0", "--data-dir"]).arg(&data).output().unwrap();
    let (code, _, told) = text(&started);
    assert_eq!(code, 1, "{told}");
    assert!(
        told.contains(&format!("log/slot-00.log at byte {damaged}"))
            && told.contains("sluicemq fsck --repair"),
        "{told}"
    );
    for _ in 0..2 {
        let (code, said, _) = text(&fsck(&data, false));
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("up to 1 missing (3)") && said.contains("--repair sets"), "{said}");
    }
    let (code, said, told) = text(&fsck(&data, true));
    assert_eq!(code, 0, "{said}{told}");
    assert!(said.contains(&format!("corrupt/log-slot-00.log-at-{damaged}.bin")), "{said}");
    assert_eq!(text(&fsck(&data, true)).0, 0);
    let node = Node::start(&data, &SMALL).unwrap();
    let bodies = drain(&mut Client::connect(node.address).unwrap(), "orders").unwrap();
    assert_eq!(bodies, [0u64, 1, 3].map(|id| id.to_le_bytes().to_vec()));
}

#[test]
fn a_directory_that_may_not_be_written_is_refused_in_one_sentence() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can play another user");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let data = dir.path().join("data");
    Node::start(&data, &SMALL).unwrap().kill().unwrap();
    let mut command = binary();
    command.args(["--listen", "127.0.0.1:0", "--data-dir"]).arg(&data);
    match command.uid(NOBODY).gid(NOBODY).output() {
        Err(error) => println!("skipped: another user cannot run the binary: {error}"),
        Ok(output) => {
            let (code, _, told) = text(&output);
            let lines: Vec<_> = told.lines().filter(|line| line.starts_with("sluicemq:")).collect();
            assert_eq!(code, 1, "{told}");
            assert!(lines.len() == 1 && lines[0].contains("Permission denied"), "{told}");
        }
    }
    // A directory that is not even another's, but cannot be written.
    chown(&data, Some(NOBODY), Some(NOBODY)).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "ro", "tmpfs"]).arg(&data).status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("skipped: nothing can be mounted here");
        return;
    }
    let output = binary().args(["--listen", "127.0.0.1:0", "--data-dir"]).arg(&data).output();
    let _ = Command::new("umount").arg("-l").arg(&data).status();
    let (code, _, told) = text(&output.unwrap());
    assert_eq!((code, told.contains("Read-only file system")), (1, true), "{told}");
}

#[test]
fn a_limit_on_descriptors_is_no_broken_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command
        .env_clear()
        .envs(SMALL)
        .env("SLUICEMQ_STORAGE_CACHE", "1MiB")
        .args(["-c", "ulimit -n 64; exec \"$0\" --listen 127.0.0.1:0 --data-dir \"$1\""]);
    command.arg(env!("CARGO_BIN_EXE_sluicemq")).arg(dir.path().join("data"));
    let node = Node::spawn(&mut command).unwrap();
    let mut client = Client::connect(node.address).unwrap();
    declare(&mut client, "orders").unwrap();
    select_confirms(&mut client).unwrap();
    let others: Vec<Client> = std::iter::from_fn(|| Client::connect(node.address).ok()).take(64).collect();
    assert!((10..64).contains(&others.len()), "{} were let in", others.len());
    // More packs than there are descriptors.
    for id in 0..600_u64 {
        client.push_publish("", "orders", true, &id.to_le_bytes().repeat(12_500));
        assert!(matches!(client.next().unwrap(), Incoming::Confirm { .. }));
    }
    let bodies = drain(&mut client, "orders").unwrap();
    assert!((0..600_u64).eq(bodies.iter().map(|body| u64::from_le_bytes(body[..8].try_into().unwrap()))));
}

#[test]
fn what_a_flood_took_is_not_kept_in_huge_pages() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(&dir.path().join("data"), &SMALL).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", node.id())).unwrap();
    let told = status.lines().find_map(|line| line.strip_prefix("THP_enabled:"));
    assert!(told.is_none_or(|told| told.trim() == "0"), "{told:?}");
}

#[test]
fn with_few_descriptors_connections_are_refused_and_the_store_works() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command
        .env_clear()
        .envs(SMALL)
        .args(["-c", "ulimit -n 256; exec \"$0\" --listen 127.0.0.1:0 --data-dir \"$1\""]);
    command.arg(env!("CARGO_BIN_EXE_sluicemq")).arg(dir.path().join("data"));
    let node = Node::spawn(&mut command).unwrap();
    let mut client = Client::connect(node.address).unwrap();
    declare(&mut client, "orders").unwrap();
    select_confirms(&mut client).unwrap();
    let mut others: Vec<Client> = Vec::new();
    while let Ok(other) = Client::connect(node.address) {
        others.push(other);
        assert!(others.len() < 256, "a connection was let in for which there is no descriptor");
    }
    assert!(others.len() > 128, "{} were let in", others.len());
    // Slots and packs want descriptors too.
    let body = vec![7; 100_000];
    for _ in 0..100 {
        client.push_publish("", "orders", true, &body);
        assert!(matches!(client.next().unwrap(), Incoming::Confirm { .. }));
    }
    drop(others.pop());
    while Client::connect(node.address).is_err() {
        // The place is given back when the broker has seen the end.
        std::thread::yield_now();
    }
    assert_eq!(drain(&mut client, "orders").unwrap().len(), 100);
}

#[test]
fn a_signal_under_load_loses_nothing_and_a_second_one_does_not_wait() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let node = Node::start(&data, &SMALL).unwrap();
    let mut client = Client::connect(node.address).unwrap();
    declare(&mut client, "orders").unwrap();
    select_confirms(&mut client).unwrap();
    let (mut sent, mut confirmed) = (0u64, 0u64);
    while confirmed < 2000 {
        load(&mut client, &mut sent, &mut confirmed).unwrap();
    }
    signal(&node, "-TERM");
    // The connection is closed with a reason, or has ended while we wrote.
    let end = loop {
        if let Err(error) = load(&mut client, &mut sent, &mut confirmed) {
            break error;
        }
    };
    println!("{confirmed} of {sent} were confirmed, then: {end}");
    let (status, log) = node.wait();
    assert_eq!(status.unwrap().code(), Some(0), "{log:#?}");
    let node = Node::start(&data, &SMALL).unwrap();
    let bodies = drain(&mut Client::connect(node.address).unwrap(), "orders").unwrap();
    assert!(bodies.len() as u64 >= confirmed, "{} of {confirmed}", bodies.len());
    assert!((0u64..).zip(&bodies).all(|(id, body)| *body == id.to_le_bytes().repeat(50)));
    // A client that does not take leave keeps a stop waiting, until somebody insists.
    let silent = TcpStream::connect(node.address).unwrap();
    let _stays = Client::connect(node.address).unwrap();
    signal(&node, "-TERM");
    while !node.log().iter().any(|line| line.contains("stopping")) {
        std::thread::yield_now();
    }
    signal(&node, "-TERM");
    let (status, log) = node.wait();
    let status = status.unwrap();
    assert_eq!((status.code(), status.signal()), (Some(1), None), "{log:#?}");
    drop(silent);
}

#[test]
fn a_broker_that_stood_still_has_lost_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(&dir.path().join("data"), &SMALL).unwrap();
    let mut client = Client::connect(node.address).unwrap();
    declare(&mut client, "orders").unwrap();
    select_confirms(&mut client).unwrap();
    let (mut sent, mut confirmed) = (0u64, 0u64);
    while confirmed < 2000 {
        load(&mut client, &mut sent, &mut confirmed).unwrap();
    }
    node.freeze().unwrap();
    // What is on its way is heard; then there is nothing, and the client gives the broker up.
    client.be_patient(Duration::from_secs(1)).unwrap();
    while load(&mut client, &mut sent, &mut confirmed).is_ok() {}
    drop(client);
    signal(&node, "-CONT");
    let mut client = Client::connect(node.address).unwrap();
    let bodies = drain(&mut client, "orders").unwrap();
    assert!(bodies.len() as u64 >= confirmed, "{} of {confirmed}", bodies.len());
    assert!((0u64..).zip(&bodies).all(|(id, body)| *body == id.to_le_bytes().repeat(50)));
}

/// Publishes as much as may be outstanding, and hears what comes.
fn load(client: &mut Client, sent: &mut u64, confirmed: &mut u64) -> io::Result<()> {
    while *sent - *confirmed < 300 {
        client.push_publish("", "orders", true, &sent.to_le_bytes().repeat(50));
        *sent += 1;
    }
    match client.next()? {
        Incoming::Confirm { tag, .. } => *confirmed = (*confirmed).max(tag),
        other => return Err(io::Error::other(format!("{other:?}"))),
    }
    Ok(())
}
