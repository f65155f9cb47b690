//! What a program did to files, in order, from the output of `strace -f -y`.
//!
//! The kernel does a call at some moment between the line where strace prints its beginning and the line where it prints its end. Both
//! are kept, so that two calls of different threads have an order only where they really had one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pgbr_testkit::{Finished, as_operator, run, words_of};

/// The calls that change files, make them durable or tell of success. A `?` excuses those that a platform does not have.
const CALLS: &str = "?open,openat,?creat,write,writev,pwrite64,pwritev,ftruncate,truncate,fallocate,copy_file_range,sendfile,\
                     fsync,fdatasync,sync,syncfs,?rename,renameat,?renameat2,?link,linkat,?symlink,symlinkat,?unlink,unlinkat,\
                     ?rmdir,?mkdir,mkdirat,?chmod,fchmod,fchmodat,?chown,fchown,fchownat,?lchown,utimensat,prctl,exit_group";

/// A call that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// Line of the trace on which it began.
    pub(crate) begin: usize,
    /// Line on which it had ended.
    pub(crate) end: usize,
    pub(crate) call: Call,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    /// A file or directory got this name; a file may have had it before.
    Make(PathBuf),
    Symlink {
        target: PathBuf,
        at: PathBuf,
    },
    /// Content, size, mode, owner or times of this file changed.
    Change(PathBuf),
    Link {
        from: PathBuf,
        to: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Remove(PathBuf),
    /// One file or directory was written out.
    Sync(PathBuf),
    /// The file system of this path was written out, or all of them.
    SyncFs(PathBuf),
    SyncAll,
    /// The program wrote to standard output or error.
    Say(String),
    Exit(i32),
}

/// Runs a command as the operator under strace; gives how it ended and what it did.
pub(crate) fn traced(command: &Command, trace: &Path) -> (Finished, Vec<Event>) {
    let mut strace = Command::new("strace");
    as_operator(&mut strace).args(["--seccomp-bpf", "-f", "-y", "-s", "200", "-e"]);
    strace.arg(format!("trace={CALLS}")).arg("-o").arg(trace);
    // The program hides its memory from other processes of its user, strace among them: that call is left out.
    strace.args(["-e", "inject=prctl:retval=0"]);
    strace.args(words_of(command));
    let found = Command::new("strace").arg("-V").output();
    assert!(found.is_ok(), "strace is missing: run scripts/setup-tests.sh");
    let finished = run(&mut strace, "", Duration::from_secs(300));
    let text = std::fs::read(trace).expect("strace writes its trace");
    (finished, parse(&String::from_utf8_lossy(&text)))
}

/// The events of a trace, in the order of their ends.
pub(crate) fn parse(trace: &str) -> Vec<Event> {
    let mut unfinished: HashMap<&str, (usize, String)> = HashMap::new();
    let mut events = Vec::new();
    for (number, line) in trace.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(first) = rest.strip_suffix(" <unfinished ...>") {
            unfinished.insert(thread, (number, first.to_owned()));
        } else if let Some((_, second)) =
            rest.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed>"))
        {
            let (begin, first) = unfinished.remove(thread).expect("what is resumed has begun");
            events.extend(call(&(first + second)).map(|call| Event { begin, end: number, call }));
        } else {
            events.extend(call(rest).map(|call| Event { begin: number, end: number, call }));
        }
    }
    events
}

/// One call, with its result; none where it failed or has no place in the order.
fn call(text: &str) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let (args, result) = arguments(rest)?;
    let result = result.trim_start().strip_prefix('=')?.trim_start();
    if result.starts_with('-') {
        return None;
    }
    let arg = |n: usize| args.get(n).map_or("", String::as_str);
    let path = |n: usize| quoted(arg(n)).map(|p| Path::new("/").join(p));
    let path_at = |n: usize| quoted(arg(n + 1)).map(|p| opened(arg(n)).unwrap_or_default().join(p));
    let file = |n: usize| opened(arg(n));
    Some(match name {
        "open" | "openat" => {
            let (path, flags) = if name == "open" { (path(0)?, arg(1)) } else { (path_at(0)?, arg(2)) };
            match (flags.contains("O_CREAT"), flags.contains("O_TRUNC")) {
                (true, _) => Call::Make(path),
                (false, true) => Call::Change(path),
                _ => return None,
            }
        }
        "creat" | "mkdir" => Call::Make(path(0)?),
        "mkdirat" => Call::Make(path_at(0)?),
        "symlink" => Call::Symlink { target: quoted(arg(0))?.into(), at: path(1)? },
        "symlinkat" => Call::Symlink { target: quoted(arg(0))?.into(), at: path_at(1)? },
        "write" | "writev" if ["1<", "2<"].iter().any(|fd| arg(0).starts_with(fd)) => {
            Call::Say(arg(1).to_owned())
        }
        "write" | "writev" | "pwrite64" | "pwritev" | "ftruncate" | "fallocate" | "fchmod" | "fchown" => {
            Call::Change(file(0)?)
        }
        "sendfile" => Call::Change(file(0)?),
        "copy_file_range" => Call::Change(file(2)?),
        "truncate" | "chmod" | "chown" | "lchown" => Call::Change(path(0)?),
        "fchmodat" | "fchownat" | "utimensat" => Call::Change(path_at(0).or_else(|| file(0))?),
        "fsync" | "fdatasync" => Call::Sync(file(0)?),
        "syncfs" => Call::SyncFs(file(0)?),
        "sync" => Call::SyncAll,
        "rename" => Call::Rename { from: path(0)?, to: path(1)? },
        "renameat" | "renameat2" => Call::Rename { from: path_at(0)?, to: path_at(2)? },
        "link" => Call::Link { from: path(0)?, to: path(1)? },
        "linkat" => Call::Link { from: path_at(0)?, to: path_at(2)? },
        "unlink" | "rmdir" => Call::Remove(path(0)?),
        "unlinkat" => Call::Remove(path_at(0)?),
        "prctl" => return None,
        "exit_group" => Call::Exit(arg(0).parse().ok()?),
        other => panic!("the trace has a call that was not asked for: {other}"),
    })
}

/// Divides `a, "b, c", {d, e}) = f` into its arguments and what stands behind the parenthesis.
fn arguments(text: &str) -> Option<(Vec<String>, &str)> {
    let (mut args, mut arg) = (Vec::new(), String::new());
    let (mut depth, mut in_string, mut escaped) = (0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            _ if in_string => {}
            ')' if depth == 0 => {
                args.push(arg.trim().to_owned());
                return Some((args, &text[at + 1..]));
            }
            '(' | '[' | '{' | '<' => depth += 1,
            ')' | ']' | '}' | '>' => depth -= 1,
            ',' if depth == 0 => {
                args.push(std::mem::take(&mut arg).trim().to_owned());
                continue;
            }
            _ => {}
        }
        arg.push(c);
    }
    None
}

/// The text between quotation marks. Paths in these tests have nothing that strace escapes.
fn quoted(arg: &str) -> Option<&str> {
    arg.strip_prefix('"')?.strip_suffix('"')
}

/// The path of an open file, as in `5</tmp/file>`.
fn opened(arg: &str) -> Option<PathBuf> {
    let (_, path) = arg.split_once('<')?;
    let path = PathBuf::from(path.strip_suffix('>')?);
    path.is_absolute().then_some(path)
}

#[test]
fn calls_are_read_with_their_paths_and_their_order() {
    let trace = r#"
7 openat(AT_FDCWD</>, "/a/b", O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC, 0666) = 5</a/b>
7 openat(AT_FDCWD</>, "/a/b", O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC, 0666) = -1 EEXIST (File exists)
7 openat(AT_FDCWD</>, "/a/b", O_RDONLY) = 5</a/b>
7 write(5</a/b>, "x), \"y\", <z> = 0"..., 65536 <unfinished ...>
8 fsync(6</a> <unfinished ...>
7 <... write resumed>)              = 65536
8 <... fsync resumed>)              = 0
7 linkat(AT_FDCWD</>, "/a/b", 4</c>, "d", 0) = 0
7 unlinkat(4</c>, "d", AT_REMOVEDIR) = 0
7 symlink("/x", "/c/l") = 0
7 utimensat(5</a/b>, NULL, [{tv_sec=1, tv_nsec=2}, {tv_sec=1, tv_nsec=2}], 0) = 0
7 write(1<pipe:[99]>, "done\n", 5)  = 5
7 --- SIGCHLD {si_signo=SIGCHLD} ---
7 exit_group(0)                     = ?
7 +++ exited with 0 +++
"#;
    let path = PathBuf::from;
    let at = |begin, end, call| Event { begin, end, call };
    let expected = [
        at(1, 1, Call::Make(path("/a/b"))),
        at(4, 6, Call::Change(path("/a/b"))),
        at(5, 7, Call::Sync(path("/a"))),
        at(8, 8, Call::Link { from: path("/a/b"), to: path("/c/d") }),
        at(9, 9, Call::Remove(path("/c/d"))),
        at(10, 10, Call::Symlink { target: path("/x"), at: path("/c/l") }),
        at(11, 11, Call::Change(path("/a/b"))),
        at(12, 12, Call::Say("\"done\\n\"".to_owned())),
        at(14, 14, Call::Exit(0)),
    ];
    assert_eq!(parse(trace), expected);
}
