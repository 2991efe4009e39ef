//! Our own watch over signals: HUP reloads, USR1 reopens logs, TERM, QUIT and INT leave. Every other one that can be caught is
//! caught and logged, for its default would be to end the process.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Reload,
    ReopenLogs,
    /// With the signal's name.
    Leave(&'static str),
}

/// Signals that are caught and do nothing yet, with their numbers on Linux. Not among them: those of faults, job control
/// (stop and continue keep their meaning), CHLD and URG (ignored by default) and PIPE (ignored by the standard library).
const UNUSED: [(i32, &str); 12] = [
    (12, "SIGUSR2"),
    (14, "SIGALRM"),
    (16, "SIGSTKFLT"),
    (21, "SIGTTIN"),
    (22, "SIGTTOU"),
    (24, "SIGXCPU"),
    (25, "SIGXFSZ"),
    (26, "SIGVTALRM"),
    (27, "SIGPROF"),
    (28, "SIGWINCH"),
    (29, "SIGIO"),
    (30, "SIGPWR"),
];

/// The real-time signals, which end a process by default too.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// The signals of this process, in the order they come.
#[derive(Debug)]
pub struct Signals {
    events: mpsc::Receiver<Event>,
}

impl Signals {
    /// Begins to watch. To be called within the runtime.
    ///
    /// # Errors
    /// A handler cannot be installed.
    pub fn watch() -> io::Result<Self> {
        let (sender, events) = mpsc::channel(16);
        let served = [
            (SignalKind::hangup(), Event::Reload),
            (SignalKind::user_defined1(), Event::ReopenLogs),
            (SignalKind::terminate(), Event::Leave("SIGTERM")),
            (SignalKind::quit(), Event::Leave("SIGQUIT")),
            (SignalKind::interrupt(), Event::Leave("SIGINT")),
        ];
        for (kind, event) in served {
            let mut stream = signal(kind)?;
            let sender = sender.clone();
            tokio::spawn(async move {
                // Several of one kind while one is served become one, as the kernel does it.
                while stream.recv().await.is_some() && sender.send(event).await.is_ok() {}
            });
        }
        let unused = UNUSED.map(|(number, name)| (number, name.to_owned()));
        let real_time = REAL_TIME.map(|number| (number, format!("SIGRTMIN+{}", number - REAL_TIME.start())));
        for (number, name) in unused.into_iter().chain(real_time) {
            // A kernel that does not know the number has nothing to send.
            let Ok(mut stream) = signal(SignalKind::from_raw(number)) else { continue };
            tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    if name != "SIGWINCH" {
                        tracing::warn!(signal = name, "signal has no meaning here, ignored");
                    }
                }
            });
        }
        Ok(Self { events })
    }

    /// The next signal that asks for something. Cancel safe.
    pub async fn next(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            // The senders live as long as the runtime.
            None => std::future::pending().await,
        }
    }
}
