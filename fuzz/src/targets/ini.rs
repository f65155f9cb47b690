//! The syntax of config files.

use pgbr_cli::ini::Ini;

pub(crate) fn run(text: &str) {
    if let Ok(mut ini) = Ini::parse(text, None) {
        ini.append(Ini::parse(text, None).expect("it was read just now"));
        assert!(ini.stanzas().is_sorted());
    }
}
