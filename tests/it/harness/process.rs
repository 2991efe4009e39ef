//! A program started by a test: its output is kept line by line, and it never outlives the test.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};

use super::eventually::eventually_within;

/// Lines that a program has written so far; clones share them.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// All of them so far.
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// The last `count` of them, as one text.
    pub fn tail(&self, count: usize) -> String {
        let lines = self.0.lock().unwrap();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }

    /// Reads `source` to its end in a thread.
    fn collect(&self, source: impl Read + Send + 'static) -> JoinHandle<()> {
        let lines = self.clone();
        thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            while source.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                let text = String::from_utf8_lossy(&line);
                let text = text.trim_end_matches('\n').to_owned();
                lines.0.lock().unwrap().push(text);
                line.clear();
            }
        })
    }
}

/// A running program.
pub struct Process {
    child: Child,
    /// It leads a process group that gets our signals, children and all.
    group: bool,
    pub stdout: Lines,
    pub stderr: Lines,
    readers: Vec<JoinHandle<()>>,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`. With `group` it and whatever it starts are signalled as one; its children then hold its output
    /// open, so the last lines are waited for only without.
    #[track_caller]
    pub fn spawn(mut command: Command, group: bool) -> Self {
        if group {
            command.process_group(0);
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let (stdout, stderr) = (Lines::default(), Lines::default());
        let readers = vec![stdout.collect(child.stdout.take().unwrap()), stderr.collect(child.stderr.take().unwrap())];
        Self { child, group, stdout, stderr, readers, status: None }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to it (and its group); one that has ended is left alone.
    pub fn signal(&self, signal: Signal) {
        if self.status.is_some() {
            return;
        }
        let pid = Pid::from_child(&self.child);
        let sent = if self.group { kill_process_group(pid, signal) } else { kill_process(pid, signal) };
        if let Err(error) = sent {
            assert_eq!(error, rustix::io::Errno::SRCH, "signalling {pid:?}");
        }
    }

    /// Sends a signal to the process alone, not to its group.
    pub fn signal_leader(&self, signal: Signal) {
        if self.status.is_none() {
            kill_process(Pid::from_child(&self.child), signal).expect("signalling a child");
        }
    }

    /// How it ended, where it has. What is left of its group then is killed.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() && self.has_ended() {
            if self.group {
                // Before it is reaped: afterwards its number could be another's.
                self.signal(Signal::KILL);
            }
            self.status = self.child.wait().ok();
            if !self.group {
                // Everything it wrote is there once its pipes are at their end.
                for reader in self.readers.drain(..) {
                    reader.join().unwrap();
                }
            }
        }
        self.status
    }

    /// Whether it has ended, without reaping it.
    fn has_ended(&self) -> bool {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let ended = waitid(WaitId::Pid(Pid::from_child(&self.child)), look);
        ended.unwrap().is_some()
    }

    /// Waits until it ends.
    ///
    /// # Panics
    /// If it has not after `bound`; it is killed then.
    #[track_caller]
    pub fn wait(&mut self, bound: Duration) -> ExitStatus {
        eventually_within(bound, "the process ends", || self.try_wait())
    }

    /// Ends it without asking; nothing to do where it has ended.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        if self.status.is_none() {
            self.status = self.child.wait().ok();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
