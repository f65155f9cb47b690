//! The syntax of config files.

#![no_main]

use pgbr_cli::ini::Ini;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(mut ini) = Ini::parse(text) {
        ini.append(Ini::parse(text).expect("it was read just now"));
        assert!(ini.stanzas().is_sorted());
    }
});
