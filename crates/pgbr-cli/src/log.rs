//! The log: lines as pgBackRest writes them, on stdout, stderr and in a file.
//!
//! A line goes to stderr if its level is within `log-level-stderr`, else to stdout if it is within `log-level-console`,
//! and to the file besides. While a command writes data to stdout, lines for the console go to stderr, in stderr's shape.
//! A log that cannot be written never stops the work.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::exit::CliError;
use crate::options::Command;
use crate::settings::Settings;

/// What each run begins with in the log file.
const BANNER: &str = "-------------------PROCESS START-------------------\n";

/// How much a line tells; a higher one tells more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    Off,
    /// The command failed.
    Error,
    /// Something to look at.
    Warn,
    /// What is being done.
    Info,
    /// File by file.
    Detail,
    /// For finding faults.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    /// The level of an option's value (`off`, `error`, ...).
    pub fn from_name(name: &str) -> Option<Self> {
        use Level::{Debug, Detail, Error, Info, Off, Trace, Warn};
        [Off, Error, Warn, Info, Detail, Debug, Trace]
            .into_iter()
            .find(|level| level.name().eq_ignore_ascii_case(name))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Off => "OFF",
            Self::Error => "ERROR",
            Self::Warn => "WARN",
            Self::Info => "INFO",
            Self::Detail => "DETAIL",
            Self::Debug => "DEBUG",
            Self::Trace => "TRACE",
        }
    }
}

/// How the log is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogOptions {
    /// Level on stdout.
    pub console: Level,
    /// Level on stderr.
    pub stderr: Level,
    /// Level in the file.
    pub file: Level,
    /// Whether lines begin with date and time.
    pub timestamp: bool,
    /// Number of workers: their numbers get three digits from 100 on.
    pub process_max: i64,
    /// Whether messages begin with `[DRY-RUN] `.
    pub dry_run: bool,
    /// Whether stdout is for data only.
    pub data_on_stdout: bool,
}

impl LogOptions {
    /// What the options of a command say.
    pub fn from_settings(settings: &Settings) -> Self {
        let level = |name| settings.get_str(name).and_then(Level::from_name).unwrap_or(Level::Off);
        let data = matches!(settings.command(), Command::RepoGet | Command::KeyExport)
            || settings.get_str("output") == Some("json");
        Self {
            console: level("log-level-console"),
            stderr: level("log-level-stderr"),
            file: level("log-level-file"),
            timestamp: settings.entry("log-timestamp").as_bool().unwrap_or(true),
            process_max: settings.get_int("process-max").unwrap_or(1),
            dry_run: settings.get_bool("dry-run"),
            data_on_stdout: data,
        }
    }
}

/// Tells the time of a line; injected so that tests have a clock of their own.
pub type Clock = Box<dyn Fn() -> Zoned + Send + Sync>;

/// Where lines go. Shared by the threads of a command.
pub struct Logger {
    options: LogOptions,
    clock: Clock,
    sinks: Mutex<Sinks>,
}

struct Sinks {
    stdout: Box<dyn Write + Send>,
    stderr: Box<dyn Write + Send>,
    file: Option<LogFile>,
}

struct LogFile {
    file: File,
    /// Whether this run has written its banner.
    begun: bool,
}

/// One line to be written.
struct Line<'a> {
    level: Level,
    worker: u32,
    code: Option<u8>,
    /// Where in the program, for DEBUG and TRACE.
    place: Option<&'a str>,
    message: &'a str,
}

impl Logger {
    /// A log on this process's stdout and stderr, with the time of this zone.
    pub fn new(options: LogOptions, zone: TimeZone) -> Self {
        let clock = Box::new(move || Timestamp::now().to_zoned(zone.clone()));
        Self::with_sinks(options, Box::new(io::stdout()), Box::new(io::stderr()), clock)
    }

    /// A log that writes and tells the time as it is told.
    pub fn with_sinks(
        options: LogOptions,
        stdout: Box<dyn Write + Send>,
        stderr: Box<dyn Write + Send>,
        clock: Clock,
    ) -> Self {
        Self { options, clock, sinks: Mutex::new(Sinks { stdout, stderr, file: None }) }
    }

    /// Writes to this file as well from now on, instead of one opened before. If it cannot be opened, that is a warning.
    pub fn open_file(&self, path: &Path) {
        self.sinks().file = None;
        if self.options.file == Level::Off {
            return;
        }
        match OpenOptions::new().create(true).append(true).mode(0o640).open(path) {
            Ok(file) => self.sinks().file = Some(LogFile { file, begun: false }),
            Err(error) => {
                let text = error.to_string();
                let reason = text.split(" (os error").next().unwrap_or_default();
                self.warn(&format!(
                    "unable to open log file '{}': {reason}\nNOTE: process will continue without log file.",
                    path.display()
                ));
            }
        }
    }

    /// Whether a line of this level is written anywhere.
    pub fn enabled(&self, level: Level) -> bool {
        let options = &self.options;
        level != Level::Off && level <= options.console.max(options.stderr).max(options.file)
    }

    /// Writes why the command failed.
    pub fn error(&self, error: &CliError) {
        self.write(&Line { code: Some(error.code.number()), ..Line::new(Level::Error, 0, &error.text()) });
    }

    /// Writes a line of level WARN from the main thread. Hints are further lines of the message.
    pub fn warn(&self, message: &str) {
        self.log(Level::Warn, 0, message);
    }

    /// Writes a line of level INFO from the main thread.
    pub fn info(&self, message: &str) {
        self.log(Level::Info, 0, message);
    }

    /// Writes a line of level DETAIL from the main thread.
    pub fn detail(&self, message: &str) {
        self.log(Level::Detail, 0, message);
    }

    /// Writes a line of level DEBUG from the main thread; `place` is `module::function`.
    pub fn debug(&self, place: &str, message: &str) {
        self.write(&Line { place: Some(place), ..Line::new(Level::Debug, 0, message) });
    }

    /// Writes a line; worker 0 is the main thread.
    pub fn log(&self, level: Level, worker: u32, message: &str) {
        self.write(&Line::new(level, worker, message));
    }

    fn write(&self, line: &Line<'_>) {
        if !self.enabled(line.level) {
            return;
        }
        let options = &self.options;
        let mut sinks = self.sinks();
        // What cannot be logged is not worth failing for, so the results below are dropped.
        if line.level <= options.stderr || (line.level <= options.console && options.data_on_stdout) {
            sinks.stderr.write_all(line.short(options).as_bytes()).ok();
        } else if line.level <= options.console {
            let text = line.full(options, &self.clock);
            sinks.stdout.write_all(text.as_bytes()).and_then(|()| sinks.stdout.flush()).ok();
        }
        if line.level <= options.file
            && let Some(file) = &mut sinks.file
        {
            file.write(&line.full(options, &self.clock)).ok();
        }
    }

    fn sinks(&self) -> MutexGuard<'_, Sinks> {
        self.sinks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogFile {
    fn write(&mut self, text: &str) -> io::Result<()> {
        if !self.begun {
            let used = self.file.seek(SeekFrom::End(0))? > 0;
            self.file.write_all(if used { "\n" } else { "" }.as_bytes())?;
            self.file.write_all(BANNER.as_bytes())?;
            self.begun = true;
        }
        self.file.write_all(text.as_bytes())
    }
}

impl<'a> Line<'a> {
    fn new(level: Level, worker: u32, message: &'a str) -> Self {
        Self { level, worker, code: None, place: None, message }
    }

    /// The line for stdout and the file: `2026-11-22 13:27:32.123 P00   INFO: message`.
    fn full(&self, options: &LogOptions, clock: &Clock) -> String {
        let width = if options.process_max > 99 { 3 } else { 2 };
        let time = if options.timestamp {
            clock().strftime("%Y-%m-%d %H:%M:%S%.3f ").to_string()
        } else {
            String::new()
        };
        self.after(options, format!("{time}P{:0width$} {:>6}: ", self.worker, self.level.name()))
    }

    /// The line for stderr: `INFO: message`.
    fn short(&self, options: &LogOptions) -> String {
        self.after(options, format!("{}: ", self.level.name()))
    }

    /// Appends code, place and message; further lines of the message begin under its first.
    fn after(&self, options: &LogOptions, head: String) -> String {
        let padding = match self.level {
            Level::Debug => 4,
            Level::Trace => 8,
            _ => 0,
        };
        let indent = " ".repeat(head.len() + padding);
        let mut text = head;
        if let Some(code) = self.code {
            text += &format!("[{code:03}]: ");
        }
        if options.dry_run {
            text += "[DRY-RUN] ";
        }
        text += &" ".repeat(padding);
        if let Some(place) = self.place {
            text += &format!("{place}: ");
        }
        text += &self.message.replace('\n', &format!("\n{indent}"));
        text + "\n"
    }
}

impl fmt::Debug for Logger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logger").field("options", &self.options).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::exit::ErrorCode;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Sink {
        fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut self.0.lock().unwrap())).unwrap()
        }
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const OPTIONS: LogOptions = LogOptions {
        console: Level::Detail,
        stderr: Level::Off,
        file: Level::Info,
        timestamp: true,
        process_max: 1,
        dry_run: false,
        data_on_stdout: false,
    };

    fn logger(options: LogOptions) -> (Logger, Sink, Sink) {
        let (out, err) = (Sink::default(), Sink::default());
        let clock = || "2026-11-22T13:27:32.045[UTC]".parse::<Zoned>().unwrap();
        let logger =
            Logger::with_sinks(options, Box::new(out.clone()), Box::new(err.clone()), Box::new(clock));
        (logger, out, err)
    }

    #[test]
    fn console_lines() {
        let (log, out, err) = logger(OPTIONS);
        log.info("backup start");
        log.log(Level::Detail, 1, "backup file");
        log.warn("first\nHINT: second");
        log.error(&CliError::new(ErrorCode::LockAcquire, "no lock").hint("wait"));
        log.debug("a::b", "not shown");
        assert_eq!(
            out.take(),
            "2026-11-22 13:27:32.045 P00   INFO: backup start\n\
             2026-11-22 13:27:32.045 P01 DETAIL: backup file\n\
             2026-11-22 13:27:32.045 P00   WARN: first\n\
             \x20                                   HINT: second\n\
             2026-11-22 13:27:32.045 P00  ERROR: [050]: no lock\n\
             \x20                                   HINT: wait\n"
        );
        assert_eq!(err.take(), "");
    }

    #[test]
    fn no_time_three_digits_dry_run_and_places() {
        let options = LogOptions {
            timestamp: false,
            process_max: 100,
            dry_run: true,
            console: Level::Trace,
            ..OPTIONS
        };
        let (log, out, _) = logger(options);
        log.log(Level::Info, 7, "x");
        log.debug("config::load", "y\nz");
        log.log(Level::Trace, 0, "t");
        assert_eq!(
            out.take(),
            "P007   INFO: [DRY-RUN] x\n\
             P000  DEBUG: [DRY-RUN]     config::load: y\n\
             \x20                z\n\
             P000  TRACE: [DRY-RUN]         t\n"
        );
    }

    #[test]
    fn stderr_takes_its_levels_from_stdout() {
        let (log, out, err) = logger(LogOptions { stderr: Level::Warn, ..OPTIONS });
        log.warn("careful\nHINT: look");
        log.info("done");
        assert_eq!(err.take(), "WARN: careful\n      HINT: look\n");
        assert_eq!(out.take(), "2026-11-22 13:27:32.045 P00   INFO: done\n");
    }

    #[test]
    fn data_on_stdout_stays_pure() {
        let (log, out, err) = logger(LogOptions { data_on_stdout: true, ..OPTIONS });
        log.warn("careful");
        log.error(&CliError::new(ErrorCode::Config, "bad"));
        log.debug("a", "not shown");
        assert_eq!((out.take().as_str(), err.take().as_str()), ("", "WARN: careful\nERROR: [027]: bad\n"));
    }

    #[test]
    fn the_file_has_a_banner_a_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("demo-backup.log");
        for run in 0..2 {
            let (log, _, _) = logger(OPTIONS);
            log.open_file(&path);
            log.detail("below the file's level");
            log.info(&format!("run {run}"));
            log.info("end");
        }
        let line = "2026-11-22 13:27:32.045 P00   INFO:";
        assert_eq!(
            std::fs::read_to_string(path).unwrap(),
            format!("{BANNER}{line} run 0\n{line} end\n\n{BANNER}{line} run 1\n{line} end\n")
        );
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_a_warning() {
        let (log, out, _) = logger(OPTIONS);
        log.open_file(Path::new("/nonexistent/x.log"));
        assert!(
            out.take()
                .contains("WARN: unable to open log file '/nonexistent/x.log': No such file or directory\n")
        );
        let (log, out, _) = logger(LogOptions { file: Level::Off, ..OPTIONS });
        log.open_file(Path::new("/nonexistent/x.log"));
        assert_eq!(out.take(), "");
    }

    #[test]
    fn levels_by_name() {
        assert_eq!(Level::from_name("detail"), Some(Level::Detail));
        assert_eq!(Level::from_name("loud"), None);
        let (log, _, _) = logger(OPTIONS);
        assert!(log.enabled(Level::Detail) && !log.enabled(Level::Debug) && !log.enabled(Level::Off));
    }
}
