//! What commands and options there are: one static table of each, and how a name finds its entry.
//!
//! Names, types, defaults, ranges and dependencies are pgBackRest's (2.60); see `docs/decisions/0002-own-option-parser.md`.

mod commands;
mod find;
mod table;

pub use commands::{ALL, COMMANDS, Command, CommandRule, CommandSet, LockKind, Role};
pub use find::{Found, ValueFrom, find, key_name};
pub(crate) use find::{Spelling, candidates, find_spelled, id_of};
pub use table::OPTIONS;

/// Highest index of an indexed option (`repo256-path`).
pub const KEY_MAX: u16 = 256;

/// Type of an option's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `--opt`, `--no-opt`, `opt=y`, `opt=n`.
    Boolean,
    /// A signed integer.
    Integer,
    /// Bytes, with an optional ending such as `MiB`.
    Size,
    /// A time, with an optional ending such as `ms`; bare numbers are seconds.
    Time,
    /// Any text that is not empty.
    Text,
    /// One word of a list.
    Choice,
    /// An absolute path.
    Path,
    /// A repeated option.
    List,
    /// A repeated option with values `key=value`.
    Hash,
}

impl Kind {
    /// Whether the option may be given more than once.
    pub fn is_multi(self) -> bool {
        matches!(self, Self::List | Self::Hash)
    }
}

/// Where an option may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// On the command line or in the environment only.
    CommandLine,
    /// In any section of a config file.
    Global,
    /// In a stanza's sections of a config file only.
    Stanza,
}

/// A family of options with a number after the family's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// `pgN-*`: the clusters of a stanza.
    Pg,
    /// `repoN-*`: the repositories.
    Repo,
}

impl Group {
    /// What the names of the family begin with.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pg => "pg",
            Self::Repo => "repo",
        }
    }
}

/// The heading under which help lists an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the headings")]
pub enum Listed {
    Command,
    General,
    Log,
    Maintainer,
    Repository,
    Stanza,
}

/// The value an option has when nothing sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// None.
    Unset,
    /// This value.
    Value(&'static str),
    /// This path, spelled for pgBackRest; the flavor may change it.
    Path(&'static str),
    /// The program's own path.
    Program,
    /// Depends on the value of the option that this one needs.
    Map(&'static [(&'static str, &'static str)]),
}

/// What values an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allow {
    /// Everything that its type admits.
    Any,
    /// One of these.
    Values(&'static [&'static str]),
    /// From the first to the second, inclusive.
    Range(&'static str, &'static str),
    /// A range that depends on the value of the option that this one needs.
    RangeMap(&'static [(&'static str, &'static str, &'static str)]),
}

/// A condition on another option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Name of the other option.
    pub option: &'static str,
    /// Values that satisfy the condition; any value does when empty. Booleans are `y` and `n`.
    pub values: &'static [&'static str],
    /// What this option is when the condition is not met.
    pub or_else: Option<&'static str>,
}

/// Whether we do what an option says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// Yes.
    Works,
    /// It is accepted and changes nothing, for this reason.
    NoEffect(&'static str),
    /// Not yet: refused on the command line; elsewhere refused only where the entry says `refused`.
    NotYet,
    /// No, and ignoring it would risk data: refused wherever it is set, for these reasons.
    Refused(&'static [&'static str]),
}

/// All that is known of one option.
#[derive(Debug, Clone, Copy)]
pub struct OptionRule {
    /// Name without an index (`repo-path`).
    pub name: &'static str,
    /// Type of its value.
    pub kind: Kind,
    /// Commands that take it.
    pub commands: CommandSet,
    /// One sentence for help.
    help: &'static str,
    /// Where it may be set.
    pub section: Section,
    /// The indexed family it belongs to.
    pub group: Option<Group>,
    default: Fallback,
    allow: Allow,
    required: bool,
    needs: Option<Needs>,
    internal: bool,
    /// Never shown, and refused on the command line.
    pub secret: bool,
    /// Whether `--no-opt` is allowed.
    pub negatable: bool,
    /// A choice that may also be written as a boolean.
    pub bool_like: bool,
    /// Former names; `?` stands for the index (`db?-path`).
    pub old_names: &'static [&'static str],
    listed: Listed,
    support: Support,
    /// Not supported yet, and ignoring it would risk data: refused wherever it is set.
    pub refused: bool,
    /// Values that are refused wherever they are set.
    pub refused_values: &'static [&'static str],
    /// Why they are, and what to use instead.
    pub refused_why: &'static [&'static str],
    /// pgBackRest has no such option.
    pub ours: bool,
    own: &'static [Own],
}

/// What differs for some commands.
#[derive(Debug, Clone, Copy)]
pub struct Own {
    commands: CommandSet,
    default: Option<&'static str>,
    values: Option<&'static [&'static str]>,
    required: Option<bool>,
    needs: Option<Needs>,
    internal: bool,
    help: Option<&'static str>,
    support: Option<Support>,
}

impl OptionRule {
    /// Whether the command takes the option.
    pub fn valid_for(&self, command: Command) -> bool {
        command.is_in(self.commands)
    }

    /// Whether `--reset-opt` is allowed: what a config file may set, the command line may reset.
    pub fn resettable(&self) -> bool {
        self.section != Section::CommandLine
    }

    /// Default for the command.
    pub fn default_for(&self, command: Command) -> Fallback {
        self.own_of(command, |own| own.default).map_or(self.default, Fallback::Value)
    }

    /// Allowed values for the command.
    pub fn allow_for(&self, command: Command) -> Allow {
        self.own_of(command, |own| own.values).map_or(self.allow, Allow::Values)
    }

    /// Whether the command cannot do without it (if it has no default).
    pub fn required_for(&self, command: Command) -> bool {
        self.own_of(command, |own| own.required).unwrap_or(self.required)
    }

    /// The condition on another option for the command.
    pub fn needs_for(&self, command: Command) -> Option<Needs> {
        self.own_of(command, |own| own.needs).or(self.needs)
    }

    /// Whether help leaves it out for the command.
    pub fn internal_for(&self, command: Command) -> bool {
        self.internal || self.own_of(command, |own| own.internal.then_some(())).is_some()
    }

    /// One sentence for help on the command.
    pub fn help_for(&self, command: Command) -> &'static str {
        self.own_of(command, |own| own.help).unwrap_or(self.help)
    }

    /// Whether the command does what it says.
    pub fn support_for(&self, command: Command) -> Support {
        self.own_of(command, |own| own.support).unwrap_or(self.support)
    }

    /// The heading under which help on the command lists it.
    pub fn listed_for(&self, command: Command) -> Listed {
        if self.own_of(command, |own| own.help).is_some() { Listed::Command } else { self.listed }
    }

    fn own_of<T>(&self, command: Command, part: impl Fn(&Own) -> Option<T>) -> Option<T> {
        self.own.iter().filter(|own| command.is_in(own.commands)).find_map(part)
    }
}

/// Starts an entry of the table: an option for the command line only.
const fn opt(name: &'static str, kind: Kind, commands: CommandSet, help: &'static str) -> OptionRule {
    OptionRule {
        name,
        kind,
        commands,
        help,
        section: Section::CommandLine,
        group: None,
        default: Fallback::Unset,
        allow: Allow::Any,
        required: false,
        needs: None,
        internal: false,
        secret: false,
        negatable: false,
        bool_like: false,
        old_names: &[],
        listed: Listed::Command,
        support: Support::Works,
        refused: false,
        refused_values: &[],
        refused_why: &[],
        ours: false,
        own: &[],
    }
}

/// Starts what differs for some commands.
const fn own(commands: CommandSet) -> Own {
    Own {
        commands,
        default: None,
        values: None,
        required: None,
        needs: None,
        internal: false,
        help: None,
        support: None,
    }
}

impl OptionRule {
    const fn section(mut self, section: Section, group: Option<Group>, listed: Listed) -> Self {
        self.section = section;
        self.group = group;
        self.listed = listed;
        // What a config file can turn on, the command line can turn off.
        self.negatable = matches!(self.kind, Kind::Boolean);
        self
    }
    const fn global(self) -> Self {
        self.section(Section::Global, None, Listed::General)
    }
    const fn log(self) -> Self {
        self.section(Section::Global, None, Listed::Log)
    }
    const fn stanza(self) -> Self {
        self.section(Section::Stanza, None, Listed::Stanza)
    }
    const fn pg(self) -> Self {
        self.section(Section::Stanza, Some(Group::Pg), Listed::Stanza)
    }
    const fn repo(self) -> Self {
        self.section(Section::Global, Some(Group::Repo), Listed::Repository)
    }
    /// An option of clusters that may stand in a global section as well.
    const fn anywhere(mut self) -> Self {
        self.section = Section::Global;
        self
    }
    const fn listed(mut self, listed: Listed) -> Self {
        self.listed = listed;
        self
    }
    const fn default(mut self, value: &'static str) -> Self {
        self.default = Fallback::Value(value);
        self
    }
    const fn default_path(mut self, path: &'static str) -> Self {
        self.default = Fallback::Path(path);
        self
    }
    const fn default_bin(mut self) -> Self {
        self.default = Fallback::Program;
        self
    }
    const fn default_map(mut self, map: &'static [(&'static str, &'static str)]) -> Self {
        self.default = Fallback::Map(map);
        self
    }
    const fn values(mut self, values: &'static [&'static str]) -> Self {
        self.allow = Allow::Values(values);
        self
    }
    const fn range(mut self, from: &'static str, to: &'static str) -> Self {
        self.allow = Allow::Range(from, to);
        self
    }
    const fn range_map(mut self, map: &'static [(&'static str, &'static str, &'static str)]) -> Self {
        self.allow = Allow::RangeMap(map);
        self
    }
    const fn required(mut self) -> Self {
        self.required = true;
        self
    }
    const fn needs(mut self, option: &'static str, values: &'static [&'static str]) -> Self {
        self.needs = Some(Needs { option, values, or_else: None });
        self
    }
    const fn needs_else(
        mut self,
        option: &'static str,
        values: &'static [&'static str],
        or_else: &'static str,
    ) -> Self {
        self.needs = Some(Needs { option, values, or_else: Some(or_else) });
        self
    }
    const fn internal(mut self) -> Self {
        self.internal = true;
        self
    }
    const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }
    const fn negatable(mut self) -> Self {
        self.negatable = true;
        self
    }
    const fn bool_like(mut self) -> Self {
        self.bool_like = true;
        self
    }
    const fn was(mut self, names: &'static [&'static str]) -> Self {
        self.old_names = names;
        self
    }
    const fn no_effect(mut self, reason: &'static str) -> Self {
        self.support = Support::NoEffect(reason);
        self
    }
    const fn not_yet(mut self) -> Self {
        self.support = Support::NotYet;
        self
    }
    const fn refused(mut self) -> Self {
        self.support = Support::NotYet;
        self.refused = true;
        self
    }
    const fn refused_because(mut self, why: &'static [&'static str]) -> Self {
        self.support = Support::Refused(why);
        self
    }
    const fn refused_values(mut self, values: &'static [&'static str], why: &'static [&'static str]) -> Self {
        self.refused_values = values;
        self.refused_why = why;
        self
    }
    const fn ours(mut self) -> Self {
        self.ours = true;
        self
    }
    const fn own(mut self, own: &'static [Own]) -> Self {
        self.own = own;
        self
    }
}

impl Own {
    const fn default(mut self, value: &'static str) -> Self {
        self.default = Some(value);
        self
    }
    const fn values(mut self, values: &'static [&'static str]) -> Self {
        self.values = Some(values);
        self
    }
    const fn required(mut self) -> Self {
        self.required = Some(true);
        self
    }
    const fn optional(mut self) -> Self {
        self.required = Some(false);
        self
    }
    const fn needs(mut self, option: &'static str, values: &'static [&'static str]) -> Self {
        self.needs = Some(Needs { option, values, or_else: None });
        self
    }
    const fn needs_else(
        mut self,
        option: &'static str,
        values: &'static [&'static str],
        or_else: &'static str,
    ) -> Self {
        self.needs = Some(Needs { option, values, or_else: Some(or_else) });
        self
    }
    const fn internal(mut self) -> Self {
        self.internal = true;
        self
    }
    const fn help(mut self, help: &'static str) -> Self {
        self.help = Some(help);
        self
    }
    const fn no_effect(mut self, reason: &'static str) -> Self {
        self.support = Some(Support::NoEffect(reason));
        self
    }
}
