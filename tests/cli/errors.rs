//! What is wrong is said once, with its place and what to do about it.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::{Broker, fresh_dir, sluicemq};

const NOBODY: u32 = 65534;

/// Checks the exit code, and that the one thing said is this sentence.
fn check_told(command: &mut Command, code: i32, sentence: &str) {
    let told = told(command, code);
    assert_eq!(told, format!("sluicemq: {sentence}"));
}

/// The one thing said.
fn told(command: &mut Command, code: i32) -> String {
    let mut process = Broker::start(command);
    let mut log = Vec::new();
    while let Ok(line) = process.lines.recv() {
        assert!(!line.contains("Server startup complete"), "nothing was wrong: {log:#?}");
        log.push(line);
    }
    assert_eq!(process.process.wait().expect("it ends").code(), Some(code), "{log:#?}");
    let told: Vec<_> = log.iter().filter(|line| line.starts_with("sluicemq: ")).collect();
    let [told] = told[..] else { panic!("one thing is told, not {}: {log:#?}", told.len()) };
    told.clone()
}

fn serve(dir: &Path) -> Command {
    sluicemq(&["--listen", "127.0.0.1:0", "--data-dir", text(dir)])
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of ours is text")
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn an_address_in_use_or_of_another_machine() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    check_told(
        &mut sluicemq(&["--listen", &address]),
        1,
        &format!(
            "cannot listen on {address}: Address already in use (os error 98): stop what listens there, or choose \
             another port with --listen HOST:PORT"
        ),
    );
    // A block for documentation: no machine has an address of it.
    check_told(
        &mut sluicemq(&["--listen", "192.0.2.1:5672"]),
        1,
        "cannot listen on 192.0.2.1:5672: Cannot assign requested address (os error 99): choose an address of this \
         machine with --listen HOST:PORT",
    );
}

#[test]
fn a_name_to_listen_on_is_looked_up() {
    let mut broker = Broker::start(&mut sluicemq(&["--listen", "localhost:0"]));
    let log = broker.log_until("Server startup complete");
    let of_loopback = |line: &&String| line.contains("address=127.0.0.1:") || line.contains("address=[::1]:");
    assert!(log.iter().any(|line| of_loopback(&line)), "{log:#?}");
    assert!(!log.iter().any(|line| line.contains("without TLS")), "{log:#?}");
}

#[test]
fn a_directory_that_cannot_be_made() {
    check_told(
        &mut serve(Path::new("/proc/nowhere")),
        1,
        "the data directory /proc/nowhere cannot be used: make it: No such file or directory (os error 2): this user \
         must be able to make it and write in it, or choose another with --data-dir",
    );
    let file = fresh_dir();
    fs::write(&file, "a file").expect("a file");
    let told = told(&mut serve(&file), 1);
    assert!(
        told.contains(text(&file)) && told.contains("there is a file where a directory should be"),
        "{told}"
    );
    assert_eq!(fs::read_to_string(&file).expect("it is there still"), "a file");
}

#[test]
fn a_directory_that_cannot_be_written() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o555)).expect("its mode");
    let mut command = serve(dir.path());
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
        if let Err(error) = command.output() {
            println!("skipped: another user cannot run the binary: {error}");
            return;
        }
    }
    let dir = text(dir.path());
    check_told(
        &mut command,
        1,
        &format!(
            "the data directory {dir} cannot be used: lock LOCK: Permission denied (os error 13): this user must be able \
             to make it and write in it, or choose another with --data-dir"
        ),
    );
}

#[test]
fn a_directory_of_something_else() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("notes.txt"), "mine").expect("a file");
    let place = text(dir.path());
    let strange = format!(
        "the data directory {place} is not one of SluiceMQ's: it has no FORMAT and is not empty: there is notes.txt"
    );
    let advice = "choose an empty or a new one with --data-dir";
    check_told(&mut serve(dir.path()), 1, &format!("{strange}: {advice}"));
    let fsck = &mut sluicemq(&["fsck", "--data-dir", place]);
    check_told(
        fsck,
        2,
        &format!(
            "the data directory {place} is not one of SluiceMQ's: no broker has been here: name a broker's with \
             --data-dir"
        ),
    );
    let left: Vec<_> = fs::read_dir(dir.path()).expect("it is there").flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_directory_of_a_broker_in_which_a_file_is_damaged_that_tells_what_the_others_are() {
    let dir = fresh_dir();
    drop(Broker::start(&mut serve(&dir)).log_until("Server startup complete"));
    let format = "put it back from a copy, or write its two lines: `sluicemq 1`, and `node ` with 32 hexadecimal digits";
    let tables = "nothing else says what the rest is: put all of the directory back from a copy";
    let [whole_format, whole_tables] =
        ["FORMAT", "meta.redb"].map(|name| fs::read(dir.join(name)).expect("it is there"));
    for (file, content, problem, remedy) in [
        ("FORMAT", None, "it is gone", format),
        ("FORMAT", Some(&b"\xff\xff"[..]), "it is no text", format),
        ("FORMAT", Some(b""), "it names no format", format),
        ("FORMAT", Some(b"sluicemq 1\n"), "it does not say which node's data this is", format),
        ("meta.redb", None, "it is gone", tables),
        ("meta.redb", Some(&[0; 5000]), "", tables),
    ] {
        let path = dir.join(file);
        match content {
            Some(content) => fs::write(&path, content).expect("a file"),
            None => fs::remove_file(&path).expect("it was there"),
        }
        for said in [told(&mut serve(&dir), 1), told(&mut sluicemq(&["fsck", "--data-dir", text(&dir)]), 1)] {
            assert!(said.contains(&format!("{file} at byte 0: {problem}")), "{file} {content:?}: {said}");
            assert!(said.ends_with(remedy), "{file} {content:?}: {said}");
        }
        fs::write(dir.join("FORMAT"), &whole_format).expect("a file");
        fs::write(dir.join("meta.redb"), &whole_tables).expect("a file");
    }
    // What it says is enough.
    fs::write(dir.join("FORMAT"), format!("sluicemq 1\nnode {:032x}\n", 7)).expect("a file");
    Broker::start(&mut serve(&dir)).log_until("Server startup complete");
}

#[test]
fn a_directory_in_use() {
    let dir = fresh_dir();
    let mut first = Broker::start(&mut serve(&dir));
    first.log_until("Server startup complete");
    let in_use = format!("the data directory {} is in use by another process", dir.display());
    let advice = "stop that broker, or choose another directory with --data-dir";
    check_told(&mut serve(&dir), 1, &format!("{in_use}: {advice}"));
    let fsck = &mut sluicemq(&["fsck", "--data-dir", text(&dir)]);
    check_told(fsck, 2, &format!("{in_use}: stop the broker first"));
}

#[test]
fn a_disk_without_room() {
    let dir = tempfile::tempdir().expect("a directory");
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=16k", "tmpfs"]).arg(dir.path()).status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("skipped: nothing can be mounted here");
        return;
    }
    let data = dir.path().join("data");
    let said = std::panic::catch_unwind(|| told(&mut serve(&data), 1));
    // What is needed by what is said is enough.
    let remounted = Command::new("mount").args(["-o", "remount,size=4m"]).arg(dir.path()).status();
    let started = remounted.is_ok_and(|status| status.success()).then(|| {
        let mut broker = Broker::start(&mut serve(&data));
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            broker.log_until("Server startup complete");
        }))
    });
    let _ = Command::new("umount").arg("-l").arg(dir.path()).status();
    let said = said.expect("it was told");
    let place = data.display();
    assert!(said.starts_with(&format!("sluicemq: the data directory {place}: ")), "{said}");
    assert!(
        said.contains("No space left on device (os error 28): a start needs up to 4.0 MiB and "),
        "{said}"
    );
    assert!(said.ends_with(" are free: make room, or choose another directory with --data-dir"), "{said}");
    assert!(started.is_some_and(|started| started.is_ok()), "there was as much room as it had asked for");
}

#[test]
fn a_variable_that_sets_nothing() {
    for (name, advice) in [
        ("SLUICEMQ_MEMORY_WATERMARKS", "the nearest is SLUICEMQ_MEMORY_WATERMARK"),
        ("SLUICEMQ_LISTENERS", "the nearest is SLUICEMQ_LISTEN"),
        ("SLUICEMQ_LIMITS_FRAME_MAX", "the nearest is SLUICEMQ_LIMITS_FRAME_MAX_BYTES"),
        ("SLUICEMQ_XYZ", "`sluicemq config` prints all there are"),
    ] {
        let sentence = format!("environment variable {name}: there is no such setting: {advice}");
        check_told(sluicemq(&[]).env(name, "1"), 2, &sentence);
        check_told(sluicemq(&["config"]).env(name, "1"), 2, &sentence);
    }
}

#[test]
fn a_variable_of_rabbitmq_that_is_not_read() {
    let unread = [
        ("RABBITMQ_DEFAULT_PASS_FILE", "set [[users]] in the file of --config, or SLUICEMQ_USERS"),
        ("RABBITMQ_MNESIA_DIR", "set --data-dir, or SLUICEMQ_DATA_DIR"),
        (
            "RABBITMQ_VM_MEMORY_HIGH_WATERMARK",
            "set watermark below [memory] in the file of --config, or SLUICEMQ_MEMORY_WATERMARK",
        ),
    ];
    for (name, advice) in unread {
        let printed = sluicemq(&["config"]).env(name, "1").output().expect("the binary runs");
        assert!(printed.status.success());
        let told = String::from_utf8_lossy(&printed.stderr);
        assert_eq!(told, format!("sluicemq: {name} is not read: {advice}\n"));
        let mut broker = Broker::start(sluicemq(&["--listen", "127.0.0.1:0"]).env(name, "1"));
        let log = broker.log_until("Server startup complete");
        assert_eq!(log.iter().filter(|line| line.contains(name)).count(), 1, "{log:#?}");
    }
}

#[test]
fn a_service_that_was_asked_for_and_cannot_be_had_ends_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("its address").to_string();
    for (flag, what) in [("--mgmt", "the management API"), ("--prometheus", "metrics")] {
        let arguments = ["--listen", "127.0.0.1:0", flag, &address];
        let output = sluicemq(&arguments).output().expect("the binary runs");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{told}");
        let sentence = format!("cannot listen on {address} for {what}: Address already in use");
        let advice = format!("stop what listens there, or choose another port with {flag} HOST:PORT");
        assert!(told.contains(&sentence) && told.trim_end().ends_with(&advice), "{told}");
    }
}

#[test]
fn services_are_served_where_they_are_told_or_not_at_all() {
    let started = |arguments: &[&str]| {
        let mut broker = Broker::start(&mut sluicemq(arguments));
        let log = broker.log_until("Server startup complete");
        let has = |text: &str| log.iter().any(|line| line.contains(text));
        (has("listening for the management API"), has("listening for metrics"))
    };
    let all = ["--listen", "127.0.0.1:0", "--mgmt", "127.0.0.1:0", "--prometheus", "localhost:0"];
    assert_eq!(started(&all), (true, true));
    assert_eq!(
        started(&["--listen", "127.0.0.1:0"]),
        (false, false),
        "the environment of these tests says none"
    );
}
