//! What the library logs during a test.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tracing::Level;
use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

/// Keeps the lines of a log. Clones are the same one.
#[derive(Clone, Default)]
pub struct Log(Arc<Shared>);

#[derive(Default)]
struct Shared {
    lines: Mutex<Vec<(Level, String)>>,
    changed: Notify,
}

impl Log {
    /// Keeps what is logged on this thread until the guard is dropped. The runtimes of these tests have one thread
    /// each, so that every task logs here.
    pub fn start() -> (Self, DefaultGuard) {
        let log = Self::default();
        let subscriber = tracing_subscriber::registry().with(log.clone());
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// The lines so far, from INFO up.
    pub fn lines(&self) -> Vec<String> {
        let lines = self.0.lines.lock().unwrap();
        let seen = lines.iter().filter(|(level, _)| *level <= Level::INFO);
        seen.map(|(_, line)| line.clone()).collect()
    }

    /// Waits until a line of any level contains `part`, for half a minute at most.
    pub async fn says(&self, part: &str) {
        let said = async {
            loop {
                let changed = self.0.changed.notified();
                if self.0.lines.lock().unwrap().iter().any(|(_, line)| line.contains(part)) {
                    return;
                }
                changed.await;
            }
        };
        let bounded = tokio::time::timeout(Duration::from_secs(30), said).await;
        assert!(bounded.is_ok(), "nothing says \"{part}\": {:#?}", self.0.lines.lock().unwrap());
    }
}

impl<S: tracing::Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Message(String);
        impl Visit for Message {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                write!(self.0, " {}={value:?}", field.name()).unwrap();
            }
        }
        let level = *event.metadata().level();
        let mut message = Message(level.to_string());
        event.record(&mut message);
        self.0.lines.lock().unwrap().push((level, message.0));
        self.0.changed.notify_waiters();
    }
}
