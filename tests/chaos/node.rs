//! A broker in a process of its own, on a directory or on a filesystem whose power can be cut.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

/// Of the log, for the one who reads why it failed.
const KEPT_LINES: usize = 40;

/// A broker that takes longer to end is stuck.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running broker.
pub(crate) struct Node {
    child: Child,
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<VecDeque<String>>>,
    /// Hears when the log has ended, and so the process.
    ended: mpsc::Receiver<()>,
}

impl Node {
    /// Starts the broker on a data directory, with these settings, and waits until it listens.
    pub(crate) fn start(data_dir: &Path, environment: &[(&str, &str)]) -> io::Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluicemq"));
        command
            .args(["--mgmt", "none", "--prometheus", "none", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir);
        Self::spawn(command.env_clear().envs(environment.iter().copied()))
    }

    /// The same with a command that becomes the broker.
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let mut lines = BufReader::new(child.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?).lines();
        let log = Arc::new(Mutex::new(VecDeque::new()));
        let keep = |line: String, log: &Mutex<VecDeque<String>>| {
            let mut log = log.lock().expect("no holder panics");
            log.push_back(line);
            if log.len() > KEPT_LINES {
                log.pop_front();
            }
        };
        let address = loop {
            let Some(line) = lines.next().transpose()? else {
                let told = log.lock().expect("no holder panics");
                return Err(io::Error::other(format!("the broker did not start: {told:#?}")));
            };
            let found = line.split("address=").nth(1).and_then(|rest| rest.trim().parse().ok());
            keep(line, &log);
            if let Some(address) = found {
                break address;
            }
        };
        let reader = Arc::clone(&log);
        let (end, ended) = mpsc::channel();
        thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|line| keep(line, &reader));
            // Nobody may be waiting for it.
            let _ = end.send(());
        });
        Ok(Self { child, address, log, ended })
    }

    /// Stops every thread of it where it is, and returns when all stand still: also those that were in a system call.
    pub(crate) fn freeze(&self) -> io::Result<()> {
        run(Command::new("kill").args(["-STOP", &self.child.id().to_string()]))?;
        let tasks = format!("/proc/{}/task", self.child.id());
        loop {
            let mut are_stopped = true;
            for task in fs::read_dir(&tasks)? {
                let stat = fs::read_to_string(task?.path().join("stat"))?;
                let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
                are_stopped &= state.starts_with('T');
            }
            if are_stopped {
                return Ok(());
            }
            thread::yield_now();
        }
    }

    /// kill -9.
    pub(crate) fn kill(mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Waits until it has ended by itself; also the last lines of its log.
    pub(crate) fn wait(mut self) -> (io::Result<ExitStatus>, Vec<String>) {
        let ended = self.ended.recv_timeout(PATIENCE).map_err(io::Error::other);
        let status = ended.and_then(|()| self.child.wait());
        (status, self.log())
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) fn stop(self) -> io::Result<ExitStatus> {
        let sent = Command::new("kill").arg(self.child.id().to_string()).status()?;
        if sent.success() { self.wait().0 } else { Err(io::Error::other("the broker is gone already")) }
    }

    /// Its process's number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The last lines of its log.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().expect("no holder panics").iter().cloned().collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Ended already in the good case.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An ext4 filesystem in a file, whose power can be cut. Only root can have one.
pub(crate) struct Volume {
    image: PathBuf,
    mounted: PathBuf,
}

impl Volume {
    /// Makes and mounts one of so many bytes in a directory.
    pub(crate) fn make(dir: &Path, bytes: u64) -> io::Result<Self> {
        Self::make_with(dir, bytes, &[])
    }

    /// The same with options for mkfs.
    pub(crate) fn make_with(dir: &Path, bytes: u64, options: &[&str]) -> io::Result<Self> {
        let volume = Self { image: dir.join("disk.img"), mounted: dir.join("disk") };
        fs::File::create(&volume.image)?.set_len(bytes)?;
        fs::create_dir(&volume.mounted)?;
        run(Command::new("mkfs.ext4").arg("-q").args(options).arg(&volume.image))?;
        volume.mount()?;
        Ok(volume)
    }

    /// Where the broker keeps its data.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.mounted.join("data")
    }

    fn mount(&self) -> io::Result<()> {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.mounted))
    }

    /// Nothing that was not synced reaches the disk any more: EXT4_IOC_SHUTDOWN without a flush of the journal.
    pub(crate) fn cut_power(&self) -> io::Result<()> {
        const CUT: &str = "import fcntl, os, struct, sys\n\
            fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))\n";
        run(Command::new("python3").args(["-c", CUT]).arg(&self.mounted))
    }

    /// Mounts what the disk holds.
    pub(crate) fn restore_power(&self) -> io::Result<()> {
        run(Command::new("umount").arg(&self.mounted))?;
        self.mount()
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // The directory goes afterwards, and that would say so.
        let _ = run(Command::new("umount").arg("-l").arg(&self.mounted));
    }
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}
