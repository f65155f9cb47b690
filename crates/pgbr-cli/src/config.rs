//! Which config files are read, and reading them: the one place here that looks at the file system.
//!
//! The rules are pgBackRest's: the main file and every `*.conf` of the include path count together; `--config` alone drops
//! the include path; `--config-path` moves both; `--no-config` drops the main file, and the include path as well unless it
//! is named; what is named on the command line must exist.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::exit::{CliError, ErrorCode};
use crate::flavor::Flavor;
use crate::ini::Ini;
use crate::options::{self, Command, Group};
use crate::parse::{CommandLine, command_line};
use crate::settings::Settings;

/// Where pgBackRest's paths begin; the flavor may change them.
const CONFIG_PATH: &str = "/etc/pgbackrest";

/// Where the main file was in old versions.
const OLD_CONFIG_FILE: &str = "/etc/pgbackrest.conf";

/// Largest config file that is read, in bytes.
const CONFIG_SIZE_MAX: u64 = 16 * 1024 * 1024;

/// What config files hold, and what the operator should be told about them.
#[derive(Debug, Default)]
pub struct ConfigFiles {
    /// Their sections.
    pub ini: Ini,
    /// Warnings, to be logged once the log is open.
    pub warnings: Vec<String>,
}

/// Which files to read, as the command line has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The main file: where it is, where else it may be, and whether it has to exist.
    file: Option<(PathBuf, Option<PathBuf>, bool)>,
    /// The include path, and whether it has to exist.
    include: Option<(PathBuf, bool)>,
}

/// The whole start of the program: arguments (the program's path first), environment and config files to settings.
///
/// For help on a command, trouble in environment and files is left aside: help shows defaults then.
///
/// # Errors
/// As [`command_line`], [`CommandLine::check_supported`], [`CommandLine::read_environment`], [`load`], [`CommandLine::read_config`] and
/// [`CommandLine::resolve`]; `option-invalid` for an argument that is not UTF-8.
pub fn settings(
    args: impl IntoIterator<Item = OsString>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Settings, CliError> {
    let args = args.into_iter().map(utf8).collect::<Result<Vec<String>, CliError>>()?;
    let flavor = Flavor::from_program(args.first().map_or("", String::as_str));
    let line = command_line(&args, flavor)?;
    line.check_supported()?;
    if !line.reads_files() {
        return line.resolve();
    }
    let is_help = line.help;
    let env: Vec<_> = env.into_iter().collect();
    match with_files(line, &args, &env) {
        Err(_) if is_help => command_line(&args, flavor)?.resolve(),
        result => result,
    }
}

fn with_files(
    mut line: CommandLine,
    args: &[String],
    env: &[(OsString, OsString)],
) -> Result<Settings, CliError> {
    line.read_environment(env)?;
    let files = load(&line)?;
    if tells_of_readers(line.command) {
        line.warnings.extend(files.warnings);
    }
    line.read_config(&files.ini)?;
    let of_all = line.command == Command::Check && line.stanza().is_none() && !line.help;
    if of_all {
        // What is said of the repositories counts for each stanza, and may be said there alone.
        line.raw.retain(|(id, _), _| !is_of_repository(*id));
    }
    let mut settings = line.resolve()?;
    if of_all {
        settings.stanzas = of_stanzas(&settings, args, env, &files.ini);
    }
    Ok(settings)
}

fn is_of_repository(id: usize) -> bool {
    options::OPTIONS.get(id).is_some_and(|rule| rule.group == Some(Group::Repo) || rule.name == "repo")
}

/// Whether a command says that a file with a secret can be read by everybody. Those that the server or a monitoring tool calls all the time do
/// not: who takes stdout and stderr together would find a line in the middle of its document.
const fn tells_of_readers(command: Command) -> bool {
    !matches!(
        command,
        Command::ArchiveGet
            | Command::ArchivePush
            | Command::Info
            | Command::Manifest
            | Command::RepoGet
            | Command::RepoLs
    )
}

/// The settings that the same command has for each stanza of the config files.
fn of_stanzas(
    settings: &Settings,
    args: &[String],
    env: &[(OsString, OsString)],
    ini: &Ini,
) -> Vec<(String, Result<Settings, CliError>)> {
    let of_one = |name: &str| {
        let named = args.iter().cloned().chain([format!("--stanza={name}")]);
        let mut line = command_line(&named.collect::<Vec<_>>(), settings.flavor())?;
        line.read_environment(env)?;
        line.read_config(ini)?;
        line.resolve()
    };
    let stanzas = ini.stanzas().into_iter().map(|name| (name.to_owned(), of_one(name)));
    // Nobody knows what is in there; that it is not looked at is told.
    let faulty = ini
        .faulty_stanzas()
        .into_iter()
        .map(|(name, fault)| (name.to_owned(), Err(CliError::new(ErrorCode::Format, fault.to_string()))));
    stanzas.chain(faulty).collect()
}

/// Reads the config files that a command line asks for.
///
/// # Errors
/// `file-missing`, `file-open`, `file-read`, `path-missing`, `path-open`; `format` for what is no config file.
pub fn load(line: &CommandLine) -> Result<ConfigFiles, CliError> {
    read(&Plan::of(line))
}

impl Plan {
    pub(crate) fn of(line: &CommandLine) -> Self {
        let named = |name| line.raw_text(name).map(PathBuf::from);
        let flavor = line.flavor;
        let base = named("config-path");
        let home = base.clone().unwrap_or_else(|| PathBuf::from(flavor.path(CONFIG_PATH)));
        let (config, include) = (named("config"), named("config-include-path"));
        let no_config =
            options::id_of("config").and_then(|id| line.raw.get(&(id, 1))).is_some_and(|raw| raw.negate);
        let file = match &config {
            _ if no_config => None,
            Some(config) => Some((config.clone(), None, true)),
            None => {
                let old = base.is_none().then(|| PathBuf::from(flavor.path(OLD_CONFIG_FILE)));
                Some((home.join(format!("{}.conf", flavor.program())), old, false))
            }
        };
        let dropped = (config.is_some() || no_config) && base.is_none();
        let include = match include {
            Some(include) => Some((include, true)),
            None if dropped => None,
            None => Some((home.join("conf.d"), false)),
        };
        Self { file, include }
    }
}

fn read(plan: &Plan) -> Result<ConfigFiles, CliError> {
    let mut files = ConfigFiles::default();
    if let Some((path, old, required)) = &plan.file
        && !files.add(path, *required)?
        && let Some(old) = old
    {
        files.add(old, false)?;
    }
    if let Some((path, required)) = &plan.include {
        for name in list(path, *required)? {
            files.add(&path.join(name), false)?;
        }
    }
    Ok(files)
}

impl ConfigFiles {
    /// Adds a file; false if there is none.
    fn add(&mut self, path: &Path, required: bool) -> Result<bool, CliError> {
        let Some((text, mode)) = read_file(path, required)? else {
            return Ok(false);
        };
        let ini = Ini::parse(&*text, Some(path))
            .map_err(|error| CliError::new(ErrorCode::Format, error.to_string()))?;
        if mode & 0o004 != 0 && ini.keys().any(is_secret) {
            let path = path.display();
            self.warnings.push(format!(
                "configuration file '{path}' holds a secret and can be read by every user\n\
                 HINT: chmod o-r '{path}'"
            ));
        }
        self.ini.append(ini);
        Ok(true)
    }
}

fn is_secret(key: &str) -> bool {
    matches!(options::find(key), Ok(Some(found)) if found.is_secret())
}

/// Of a config file, in bytes: there are secrets in it.
type Content = Zeroizing<Vec<u8>>;

/// Content and mode of a file; `None` if there is none and there need not be one.
fn read_file(path: &Path, required: bool) -> Result<Option<(Content, u32)>, CliError> {
    let name = path.display();
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound && !required => return Ok(None),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let message = format!("unable to open missing file '{name}' for read");
            return Err(CliError::new(ErrorCode::FileMissing, message));
        }
        Err(error) => {
            let message = format!("unable to open file '{name}' for read: {}", reason(&error));
            return Err(CliError::new(ErrorCode::FileOpen, message));
        }
    };
    let fail = |why: &str| CliError::new(ErrorCode::FileRead, format!("unable to read '{name}': {why}"));
    let meta = file.metadata().map_err(|error| fail(&reason(&error)))?;
    if meta.len() > CONFIG_SIZE_MAX {
        return Err(fail("it is too large for a configuration file"));
    }
    let mut text = Zeroizing::new(Vec::new());
    match file.by_ref().take(CONFIG_SIZE_MAX + 1).read_to_end(&mut text) {
        Ok(_) if text.len() as u64 > CONFIG_SIZE_MAX => Err(fail("it is too large for a configuration file")),
        Ok(_) => Ok(Some((text, meta.permissions().mode()))),
        Err(error) => Err(fail(&reason(&error))),
    }
}

/// Names of the `*.conf` files of a path, sorted; none if there is no such path and there need not be one.
fn list(path: &Path, required: bool) -> Result<Vec<OsString>, CliError> {
    let name = path.display();
    let fail = |error: &io::Error| {
        let message = format!("unable to list file info for path '{name}': {}", reason(error));
        CliError::new(ErrorCode::PathOpen, message)
    };
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound && !required => return Ok(Vec::new()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let message = format!("unable to list file info for missing path '{name}'");
            return Err(CliError::new(ErrorCode::PathMissing, message));
        }
        Err(error) => return Err(fail(&error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| fail(&error))?.file_name();
        let bytes = name.as_encoded_bytes();
        if bytes.len() > b".conf".len() && bytes.ends_with(b".conf") {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// `[13] Permission denied`, as pgBackRest words the reasons of the operating system.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match (error.raw_os_error(), text.rsplit_once(" (os error ")) {
        (Some(number), Some((text, _))) => format!("[{number}] {text}"),
        _ => text,
    }
}

fn utf8(arg: OsString) -> Result<String, CliError> {
    arg.into_string().map_err(|arg| {
        let name = arg.to_string_lossy();
        let name = name.split('=').next().unwrap_or_default();
        CliError::new(ErrorCode::OptionInvalid, format!("argument '{name}' is not valid UTF-8"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Source;

    fn plan(args: &[&str]) -> Plan {
        let args: Vec<&str> = ["pgbackrest", "info"].iter().chain(args).copied().collect();
        Plan::of(&command_line(&args, Flavor::Pgbackrest).unwrap())
    }

    fn file(path: &str, required: bool) -> Option<(PathBuf, Option<PathBuf>, bool)> {
        Some((path.into(), None, required))
    }

    #[test]
    fn which_files_are_read() {
        let default =
            || Some(("/etc/pgbackrest/pgbackrest.conf".into(), Some("/etc/pgbackrest.conf".into()), false));
        let include = |path: &str, required| Some((PathBuf::from(path), required));
        for (args, expected_file, expected_include) in [
            (&[][..], default(), include("/etc/pgbackrest/conf.d", false)),
            (&["--config=/c"], file("/c", true), None),
            (&["--config=/c", "--config-path=/p"], file("/c", true), include("/p/conf.d", false)),
            (&["--config-include-path=/i"], default(), include("/i", true)),
            (&["--config-path=/p"], file("/p/pgbackrest.conf", false), include("/p/conf.d", false)),
            (
                &["--config-include-path=/i", "--config-path=/p"],
                file("/p/pgbackrest.conf", false),
                include("/i", true),
            ),
            (&["--config=/c", "--config-include-path=/i"], file("/c", true), include("/i", true)),
            (&["--no-config", "--config-include-path=/i"], None, include("/i", true)),
            (&["--no-config", "--config-path=/p"], None, include("/p/conf.d", false)),
            (&["--no-config"], None, None),
        ] {
            assert_eq!(plan(args), Plan { file: expected_file, include: expected_include }, "{args:?}");
        }
        let ours = Plan::of(&command_line(&["pgbr", "info"], Flavor::Pgbr).unwrap());
        assert_eq!(ours.file, Some(("/etc/pgbr/pgbr.conf".into(), Some("/etc/pgbr.conf".into()), false)));
        assert_eq!(ours.include, Some(("/etc/pgbr/conf.d".into(), false)));
    }

    fn run(args: &[&str], env: &[(&str, &str)]) -> Result<Settings, CliError> {
        let env: Vec<(OsString, OsString)> = env.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
        settings(["pgbr"].iter().chain(args).map(OsString::from), env)
    }

    #[test]
    fn files_count_together_and_secrets_for_all_are_warned_about() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path();
        fs::create_dir(base.join("conf.d")).unwrap();
        fs::write(base.join("pgbr.conf"), "[global]\nprocess-max=3\nrepo1-path=/main\n").unwrap();
        let secret = base.join("conf.d/b.conf");
        fs::write(
            &secret,
            "[demo]\npg1-path=/pg\n[global]\nrepo1-cipher-type=aes-256-gcm\nrepo1-cipher-pass=x\n",
        )
        .unwrap();
        fs::write(base.join("conf.d/ignored.txt"), "nonsense").unwrap();
        fs::write(base.join("conf.d/.conf"), "nonsense").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
        let path = format!("--config-path={}", base.display());
        let args = [path.as_str(), "restore", "--stanza=demo"];

        let settings = run(&args, &[("PGBR_PROCESS_MAX", "4"), ("OTHER", "1")]).unwrap();
        assert_eq!(
            (settings.get_int("process-max"), settings.source("process-max")),
            (Some(4), Source::Environment)
        );
        assert_eq!(settings.indexed("repo", 1, "path").as_str(), Some("/main"));
        assert_eq!(settings.indexed("pg", 1, "path").as_str(), Some("/pg"));
        let warning = settings.warnings().first().expect("a secret that all can read is warned about");
        assert!(
            warning.contains("b.conf' holds a secret") && warning.contains("HINT: chmod o-r"),
            "{warning}"
        );

        fs::set_permissions(&secret, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(run(&args, &[]).unwrap().warnings().is_empty());
    }

    #[test]
    fn what_is_named_must_be_there_and_be_a_config_file() {
        let dir = tempfile::tempdir().unwrap();
        let missing = format!("{}/none", dir.path().display());
        let bad = dir.path().join("bad.conf");
        fs::write(&bad, "[global]\nrepo1-cipher-pass hidden\n").unwrap();
        let bad = bad.display();
        for (option, code, message) in [
            (format!("--config={missing}"), 55, format!("unable to open missing file '{missing}' for read")),
            (
                format!("--config-include-path={missing}"),
                73,
                format!("unable to list file info for missing path '{missing}'"),
            ),
            (
                format!("--config={bad}"),
                29,
                format!("missing '=' in key/value at line 2 of configuration file '{bad}'"),
            ),
            (
                format!("--config={}", dir.path().display()),
                42,
                format!("unable to read '{}': [21] Is a directory", dir.path().display()),
            ),
        ] {
            let error = run(&["info", &option], &[]).unwrap_err();
            assert_eq!((error.code.number(), error.message.as_str()), (code, message.as_str()));
            assert!(run(&["help", "info", &option], &[]).is_ok(), "help does not fail on files");
        }
        assert!(run(&["info", &format!("--config-path={missing}")], &[]).is_ok());
    }

    #[test]
    fn only_what_is_used_has_to_be_utf8() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.conf");
        let config = format!("--config={}", path.display());
        let backup = |text: &[u8], more: &[&str]| {
            fs::write(
                &path,
                [
                    b"# caf\xe9\n[global]\nrepo1-path=/repo\nrepo1-retention-full=2\n[demo]\npg1-path=/pg\n",
                    text,
                ]
                .concat(),
            )
            .unwrap();
            run(&[&[config.as_str(), "backup", "--stanza=demo"], more].concat(), &[])
        };
        for passed_over in [
            &b"#\xff"[..],
            b"[other]\npg1-path=/\xff\n\xff=y",
            b"[\xff]\npg1-path=/pg",
            b"[demo:restore]\nrestore-command=\xff",
            b"[global]\nlink-map=a=/\xff",
        ] {
            let settings =
                backup(passed_over, &[]).unwrap_or_else(|error| panic!("{passed_over:?}: {error:?}"));
            assert_eq!(settings.indexed("pg", 1, "path").as_str(), Some("/pg"), "{passed_over:?}");
            assert_eq!(settings.warnings(), [""; 0]);
        }
        let unknown = backup(b"compr\xe9ss=n", &[]).unwrap();
        assert_eq!(unknown.warnings(), ["configuration file contains invalid option 'compr\u{fffd}ss'"]);

        let bad = b"annotation=a=b\nannotation=who=Ren\xe9";
        let error = backup(bad, &[]).unwrap_err();
        let message =
            format!("value is not valid UTF-8 at line 8 of configuration file '{}'", path.display());
        assert_eq!((error.code, error.message), (ErrorCode::Format, message));
        assert!(backup(bad, &["--annotation=who=somebody"]).is_ok(), "the command line says it");
    }

    #[test]
    fn arguments_have_to_be_utf8() {
        use std::os::unix::ffi::OsStringExt;
        let arg = OsString::from_vec(b"--set\xff=secret".to_vec());
        let error = settings(["pgbr".into(), "info".into(), arg], []).unwrap_err();
        assert_eq!(error.code, ErrorCode::OptionInvalid);
        assert!(!error.message.contains("secret"));
    }
}
