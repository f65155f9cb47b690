//! A TCP port on loopback that is served by threads of this process.

use std::collections::BTreeMap;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Serves connections until it is dropped; whoever is connected then is cut off.
#[derive(Debug)]
pub(crate) struct Listening {
    port: u16,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    over: AtomicBool,
    connections: Mutex<BTreeMap<u64, TcpStream>>,
}

impl Listening {
    /// Listens on `port` (0: any that is free) and calls `serve` in a thread of its own for each connection.
    ///
    /// # Panics
    /// When the port cannot be had.
    pub(crate) fn on(port: u16, serve: impl Fn(&TcpStream) + Send + Sync + 'static) -> Self {
        let listener = bind(port);
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let shared = Arc::new(Shared::default());
        let (serve, of_thread) = (Arc::new(serve), Arc::clone(&shared));
        let accepting = thread::spawn(move || {
            for (number, stream) in (0_u64..).zip(listener.incoming()) {
                if of_thread.over.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                // Where these fail the peer has gone again.
                let (Ok(()), Ok(kept)) = (stream.set_nodelay(true), stream.try_clone()) else { continue };
                of_thread.connections().insert(number, kept);
                let (serve, shared) = (Arc::clone(&serve), Arc::clone(&of_thread));
                thread::spawn(move || {
                    serve(&stream);
                    // The connection ends when both handles are gone.
                    drop(shared.connections().remove(&number));
                });
            }
        });
        Self { port, shared, accepting: Some(accepting) }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        if let Some(accepting) = self.accepting.take() {
            drop(accepting.join());
        }
        for stream in self.shared.connections().values() {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, BTreeMap<u64, TcpStream>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A named port may still be held for a moment by connections that are ending.
fn bind(port: u16) -> TcpListener {
    let start = Instant::now();
    loop {
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(listener) => return listener,
            Err(error) if start.elapsed() > Duration::from_secs(20) => {
                panic!("could not listen on port {port} of 127.0.0.1: {error}")
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}
