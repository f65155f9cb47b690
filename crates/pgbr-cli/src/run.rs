//! From settings to an exit code: log, locks, signals, runtime, command.

use std::ffi::OsString;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use jiff::tz::TimeZone;
use pgbr::{Entropy, Host, Lock, LockType, OsEntropy, Writer};
use tokio::runtime::Runtime;

use crate::commands;
use crate::exit::{CliError, ErrorCode};
use crate::failure::{Called, describe};
use crate::libpq_env::PgEnv;
use crate::log::{LogOptions, Logger};
use crate::options::{Command, LockKind, Role};
use crate::progress::Progress;
use crate::settings::Settings;
use crate::{config, help, request, secrets, zone};

/// How a command ended where it did not fail: almost always 0.
pub(crate) type Outcome = Result<u8, CliError>;

/// What every command gets.
pub(crate) struct Context {
    pub(crate) settings: Settings,
    pub(crate) log: Arc<Logger>,
    pub(crate) env: PgEnv,
    pub(crate) exec_id: String,
    pub(crate) zone: TimeZone,
    /// Held until the command ends.
    pub(crate) locks: Vec<Arc<Lock>>,
    /// Shows how far the command is.
    pub(crate) progress: Arc<Progress>,
    /// Repositories that have a new backup.
    grown: Mutex<Vec<u16>>,
    /// The right to write to them, kept for the expire behind the backup.
    writers: Mutex<Vec<(u16, Writer)>>,
}

/// Runs the program: everything it says goes to its log, stdout and stderr.
pub fn run(
    args: impl IntoIterator<Item = OsString>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> ExitCode {
    let env: Vec<_> = env.into_iter().collect();
    let args: Vec<_> = args.into_iter().collect();
    let gets_wal = args.iter().any(|arg| arg == Command::ArchiveGet.name());
    let worker = args.iter().any(|arg| arg.to_string_lossy().ends_with(":async"));
    // The options may not be known, the command is: a server in recovery must not take a slip in a file, or a defect, for the end of the WAL.
    let failed = |number| if gets_wal { commands::archive_get_exit(None, number) } else { number };
    let command = || match config::settings(args, env.iter().cloned()) {
        Ok(settings) => run_settings(settings, &env),
        Err(error) => {
            writeln!(std::io::stderr(), "{}", error.render()).ok();
            failed(error.code.number())
        }
    };
    // What panicked, and where, has been told already.
    let ended = catch_unwind(AssertUnwindSafe(command));
    let code = ended.unwrap_or_else(|_| failed(ErrorCode::Assert.number()));
    // Nobody waits for a worker but the first process of a container, which may be the server: it takes any other code for a crash of its own.
    ExitCode::from(if worker { code.min(1) } else { code })
}

fn run_settings(mut settings: Settings, env: &[(OsString, OsString)]) -> u8 {
    let zone = zone::local(env.iter().find(|(name, _)| name == "TZ").map(|(_, value)| value.as_os_str()));
    let log = Arc::new(Logger::new(LogOptions::from_settings(&settings), zone.clone()));
    if matches!(settings.command(), Command::Help | Command::Version) || settings.is_help() {
        return finish(&log, show(&settings).map(|()| 0));
    }
    if let Err(error) = settings.check_root(rustix::process::geteuid().is_root()) {
        log.error(&error);
        return commands::failure_exit(&settings, error.code);
    }
    protect();
    if let Err(error) = prioritize(&settings) {
        log.error(&error);
        return commands::failure_exit(&settings, error.code);
    }
    if settings.role() == Role::Async {
        // It goes on when the server that started it has ended. Where this process leads its group already, nothing has to be done.
        rustix::process::setsid().ok();
    }
    if settings.entry("neutral-umask").as_bool().unwrap_or(true) {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027));
    }
    let exec_id = exec_id();
    settings.set_exec_id(&exec_id);
    if let Some(path) = settings.log_file() {
        log.open_file(&path);
    }
    let begun = Instant::now();
    begin(&settings, &log);
    settings.warnings().iter().for_each(|warning| log.warn(warning));
    settings.notes().iter().for_each(|note| log.detail(note));

    secrets::fetch(&mut settings, &log);

    let env = PgEnv::from_env(env.iter().cloned());
    let progress = Arc::new(Progress::new(Arc::clone(&log)));
    let (locks, grown, writers) = (Vec::new(), Mutex::default(), Mutex::default());
    let mut context = Context { settings, log, env, exec_id, zone, locks, progress, grown, writers };
    let runtime = take_locks(&mut context).and_then(|()| runtime(&context));
    let outcome = runtime.as_ref().map_err(Clone::clone).and_then(|runtime| in_runtime(&context, runtime));
    let mut code = end(&context, begun, outcome);
    let Ok(runtime) = runtime else { return code };
    let grown = std::mem::take(context.grown.get_mut().unwrap_or_else(PoisonError::into_inner));
    if !grown.is_empty() && context.settings.get_bool("expire-auto") {
        let expired = expire_after(&mut context, &grown, &runtime);
        code = if code == 0 { expired } else { code };
    }
    // What is still under way in the background has no say any more.
    runtime.shutdown_background();
    code
}

/// Expires what retention does not keep any more in the repositories that have a new backup, as a command of its own under the backup's
/// locks. The other repositories have got nothing new that would push anything out.
fn expire_after(context: &mut Context, grown: &[u16], runtime: &Runtime) -> u8 {
    context.settings.keep_repos(grown);
    context.settings.switch_command(Command::Expire);
    if let Some(path) = context.settings.log_file() {
        context.log.open_file(&path);
    }
    let begun = Instant::now();
    begin(&context.settings, &context.log);
    let outcome = check_stop_file(context).and_then(|()| in_runtime(context, runtime));
    // Where it did not come so far.
    let left = std::mem::take(context.writers.get_mut().unwrap_or_else(PoisonError::into_inner));
    if !left.is_empty() {
        let host = host(context);
        runtime.block_on(async {
            for (_, writer) in left {
                writer.release(&host).await;
            }
        });
    }
    end(context, begun, outcome)
}

fn begin(settings: &Settings, log: &Logger) {
    log.log(settings.command().rule().begin_level, 0, &settings.begin_message());
}

/// Says how a command ended, and gives its exit code.
fn end(context: &Context, begun: Instant, outcome: Outcome) -> u8 {
    let (settings, log) = (&context.settings, &context.log);
    match outcome {
        Ok(code) => {
            log.log(settings.command().rule().begin_level, 0, &settings.end_message(begun.elapsed(), None));
            code
        }
        Err(error) => {
            log.error(&error);
            let level = settings.command().rule().begin_level;
            log.log(level, 0, &settings.end_message(begun.elapsed(), Some(error.code)));
            commands::failure_exit(settings, error.code)
        }
    }
}

fn finish(log: &Logger, result: Outcome) -> u8 {
    result.unwrap_or_else(|error| {
        log.error(&error);
        error.code.number()
    })
}

/// Secrets are in memory: no core file, and no other process of the user looks in. Where the system refuses, nothing is lost.
fn protect() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).ok();
    set_dumpable_behavior(DumpableBehavior::NotDumpable).ok();
}

/// Gives the process its priority. Threads have that of the one that starts them, so there must be no other yet.
fn prioritize(settings: &Settings) -> Result<(), CliError> {
    let Some(priority) = settings.get_int("priority").and_then(|priority| i32::try_from(priority).ok())
    else {
        return Ok(());
    };
    rustix::process::setpriority_process(None, priority).map_err(|error| {
        let message = format!("unable to set process priority {priority}: {error}");
        CliError::new(ErrorCode::Kernel, message)
            .hint("only root may give a process a priority below the one that it was started with.")
    })
}

/// Names this run, as pgBackRest does: process number and eight random digits.
fn exec_id() -> String {
    let mut random = [0; 4];
    // Without randomness the process number alone has to do; keys are never made this way.
    OsEntropy.fill(&mut random).ok();
    format!("{}-{}", std::process::id(), data_encoding::HEXLOWER.encode(&random))
}

/// Where the command runs, and what runs behind it: connections live in it, and signs of life are given by it.
fn runtime(context: &Context) -> Result<Runtime, CliError> {
    let mut builder = match context.settings.command() {
        _ if context.settings.role() == Role::Async => tokio::runtime::Builder::new_multi_thread(),
        Command::Backup | Command::Drill | Command::RepoCopy | Command::Restore | Command::Verify => {
            tokio::runtime::Builder::new_multi_thread()
        }
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = builder.worker_threads(2).enable_all().build();
    runtime.map_err(|e| CliError::new(ErrorCode::Kernel, format!("unable to start the runtime: {e}")))
}

fn in_runtime(context: &Context, runtime: &Runtime) -> Outcome {
    runtime.block_on(async {
        // They are in the order of the repositories, those that a backup leaves alone included.
        let repositories = context.settings.backup_keys().len();
        context.progress.begin(context.locks.get(..repositories).unwrap_or(&context.locks));
        let host = host(context);
        watch_signals(&host);
        let outcome = commands::run(context, &host).await;
        context.progress.clear();
        outcome
    })
}

/// The surroundings of a command.
fn host(context: &Context) -> Host {
    Host {
        observer: Arc::new(context.progress.of_repo(context.settings.repo_key(), false)),
        program: context.settings.flavor().version().to_owned(),
        ..Host::in_zone(context.zone.clone())
    }
}

/// The first signal asks the command to end; it does so at its next step.
fn watch_signals(host: &Host) {
    use tokio::signal::unix::{SignalKind, signal};
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let Ok(mut signals) = signal(kind) else { continue };
        let stop = host.stop.clone();
        tokio::spawn(async move {
            if signals.recv().await.is_some() {
                stop.stop();
            }
        });
    }
}

/// Locks that pgBackRest takes at a command's start, and stop files that it heeds.
fn take_locks(context: &mut Context) -> Result<(), CliError> {
    let command = context.settings.command();
    let kinds: &[LockType] = match command.rule().lock {
        LockKind::Backup if command == Command::RepoCopy && context.settings.get_bool("dry-run") => &[],
        LockKind::Backup => &[LockType::Backup],
        // A dry run changes nothing, and may look on while a restore runs.
        LockKind::Restore if context.settings.get_bool("dry-run") => &[],
        LockKind::Restore => &[LockType::Restore],
        LockKind::All => &[LockType::Archive, LockType::Backup, LockType::Restore],
        _ => &[],
    };
    for kind in kinds {
        // One that was given is shown where a process is, but names no files: it may be anything.
        let exec_id = context.settings.get_str("exec-id").unwrap_or(&context.exec_id);
        for request in request::locks(&context.settings, *kind, exec_id)? {
            let lock = Lock::acquire(&request).map_err(|e| context.failure(&e.into()))?;
            context.locks.push(Arc::new(lock));
        }
    }
    // With the locks held: a stop that comes later finds them and can end this process.
    if heeds_stop(command) {
        check_stop_file(context)?;
    }
    Ok(())
}

/// Whether a command does nothing while it is told to stop. What recovery and people who look need goes on.
const fn heeds_stop(command: Command) -> bool {
    matches!(
        command,
        Command::ArchivePush
            | Command::Backup
            | Command::Expire
            | Command::RepoCopy
            | Command::StanzaCreate
            | Command::StanzaUpgrade
    )
}

fn check_stop_file(context: &Context) -> Result<(), CliError> {
    let Some(directory) = context.settings.get_path("lock-path") else { return Ok(()) };
    let stanza = request::stanza(&context.settings)?;
    match pgbr::stop_file(directory, Some(&stanza)).map_err(|e| context.failure(&e.into()))? {
        None => Ok(()),
        Some(found) if found.all => Err(CliError::new(ErrorCode::Stop, "stop file exists for all stanzas")),
        Some(_) => Err(CliError::new(ErrorCode::Stop, format!("stop file exists for stanza {stanza}"))),
    }
}

impl Context {
    /// The same for a part of the command that has settings of its own.
    pub(crate) fn with(&self, settings: Settings) -> Self {
        Self {
            settings,
            log: Arc::clone(&self.log),
            env: self.env.clone(),
            exec_id: self.exec_id.clone(),
            zone: self.zone.clone(),
            locks: self.locks.clone(),
            progress: Arc::clone(&self.progress),
            grown: Mutex::default(),
            writers: Mutex::default(),
        }
    }

    /// The same surroundings for work on one of several repositories: what is told of it carries its key.
    pub(crate) fn host_of(&self, host: &Host, key: u16) -> Host {
        let several = self.settings.repo_keys().len() > 1;
        Host { observer: Arc::new(self.progress.of_repo(key, several)), ..host.clone() }
    }

    /// This repository has a new backup: what that pushes out is to be expired afterwards.
    pub(crate) fn has_grown(&self, key: u16) {
        self.grown.lock().unwrap_or_else(PoisonError::into_inner).push(key);
    }

    /// Keeps the right to write for what comes behind the backup.
    pub(crate) fn keep(&self, writers: Vec<(u16, Writer)>) {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner).extend(writers);
    }

    /// The right to write to a repository, where it was kept.
    pub(crate) fn take_writer(&self, key: u16) -> Option<Writer> {
        let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        let at = writers.iter().position(|(number, _)| *number == key)?;
        Some(writers.swap_remove(at).1)
    }

    /// What the operator is told about a failure of the engine.
    pub(crate) fn failure(&self, error: &pgbr::Error) -> CliError {
        describe(error, Called::of(&self.settings))
    }
}

/// Prints help or version. A reader that has gone away is no error.
fn show(settings: &Settings) -> Result<(), CliError> {
    print(&help::render(settings)?)
}

/// Puts data on stdout.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    print_bytes(text.as_bytes())
}

/// Puts data that need not be text on stdout.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), CliError> {
    let mut stdout = std::io::stdout();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CliError::new(ErrorCode::FileWrite, format!("unable to write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}
