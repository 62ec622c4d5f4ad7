//! Reads the configuration: the embedded default ← a file ← the environment, then fills in what
//! was left empty, so that the rest of the node meets only effective values.

use std::path::{Path, PathBuf};

use figment::Figment;
use figment::error::Kind;
use figment::providers::{Env, Format, Toml};
use thiserror::Error;

use super::{Admission, Config, is_loopback, validate};

/// The embedded default, which is also the reference of every key.
pub const DEFAULT_TOML: &str = include_str!("../../config/default.toml");

const ENVIRONMENT_PREFIX: &str = "RELAYPACS__";

/// One sentence that names the key (exit code 78).
#[derive(Debug, Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

impl ConfigError {
    pub fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }
}

impl Config {
    /// The effective, validated configuration.
    pub fn load(file: Option<&Path>) -> Result<Config, ConfigError> {
        let written = file.map(read_file).transpose()?;
        Self::from_sources(written.as_deref(), Env::prefixed(ENVIRONMENT_PREFIX).split("__"))
    }

    /// As [`Config::load`], from the text of a file and without the environment.
    pub fn from_toml(text: &str) -> Result<Config, ConfigError> {
        Self::from_sources(Some(text), Env::prefixed(ENVIRONMENT_PREFIX).only(&[]))
    }

    fn from_sources(file: Option<&str>, environment: Env) -> Result<Config, ConfigError> {
        let mut figment = Figment::from(Toml::string(DEFAULT_TOML));
        if let Some(text) = file {
            figment = figment.merge(Toml::string(text));
        }
        let mut config: Config = figment.merge(environment).extract().map_err(|error| sentence(&error))?;
        complete(&mut config)?;
        validate::all(&config)?;
        Ok(config)
    }

    /// The effective configuration as TOML. It holds no secret: those are in files, and only the
    /// files' names stand here.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        toml::to_string_pretty(self).map_err(|error| ConfigError(error.to_string()))
    }
}

fn read_file(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| {
        ConfigError(format!("the configuration file {} can't be read: {error}", path.display()))
    })
}

/// figment's first error as one sentence that begins with the key.
fn sentence(error: &figment::Error) -> ConfigError {
    let mut key = error.path.join(".");
    let profile_free = |name: &str| match key.as_str() {
        "" => name.to_owned(),
        key if key.ends_with(name) => key.to_owned(),
        key => format!("{key}.{name}"),
    };
    let text = match &error.kind {
        Kind::UnknownField(name, _) => format!("{} is not a key of the configuration", profile_free(name)),
        Kind::MissingField(name) => format!("{} is missing", profile_free(name)),
        Kind::Message(message) if key.is_empty() => outline(message),
        kind => {
            key = profile_free("");
            format!("{key}: {}", kind.to_string().replace('\n', " "))
        }
    };
    ConfigError(text)
}

/// Of a message over several lines, which quotes the file between them, the first and the last.
fn outline(message: &str) -> String {
    let mut lines = message.trim().lines();
    match (lines.next(), lines.next_back()) {
        (Some(first), Some(last)) => format!("{first}: {last}"),
        _ => message.trim().to_owned(),
    }
}

/// Fills in what depends on the machine or on other keys.
fn complete(config: &mut Config) -> Result<(), ConfigError> {
    if config.node.name.is_empty() {
        config.node.name = host_name();
    }
    if config.spool.dir.as_os_str().is_empty() {
        config.spool.dir = config.node.data_dir.join("spool");
    }
    if config.database.url.is_empty() {
        config.database.url = sqlite_url(&config.node.data_dir.join("relaypacs.db"));
    }
    if config.http.public_url.is_empty()
        && let Some(first) = config.http.listen.first()
        // Port 0 becomes known when it is bound; the node fills it in then.
        && first.port() != 0
    {
        config.http.public_url = format!("http://{first}");
    }
    config.http.public_url = config.http.public_url.trim_end_matches('/').to_owned();
    if config.dicom.admission.is_none() {
        let all_loopback = config.dicom.listen.iter().all(|address| is_loopback(address.ip()));
        config.dicom.admission = Some(if all_loopback { Admission::Any } else { Admission::Known });
    }
    let data_dir = config.node.data_dir.clone();
    for file in secret_files(config) {
        *file = data_dir.join(&*file);
    }
    Ok(())
}

/// Characters that mean something in a URL.
const ESCAPED_IN_PATHS: percent_encoding::AsciiSet =
    percent_encoding::CONTROLS.add(b'?').add(b'#').add(b'%').add(b' ').add(b'"').add(b'<').add(b'>');

fn sqlite_url(file: &Path) -> String {
    let path = file.as_os_str().as_encoded_bytes();
    format!("sqlite://{}", percent_encoding::percent_encode(path, &ESCAPED_IN_PATHS))
}

/// Every `*_file` key that is set; relative ones belong to the data folder.
fn secret_files(config: &mut Config) -> impl Iterator<Item = &mut PathBuf> {
    let of_destinations = config
        .destinations
        .iter_mut()
        .flat_map(|destination| [destination.password_file.as_mut(), destination.token_file.as_mut()]);
    [config.telemetry.token_file.as_mut(), config.database.password_file.as_mut()]
        .into_iter()
        .chain(of_destinations)
        .flatten()
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "relaypacs".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(toml: &str) -> String {
        Config::from_toml(toml).expect_err(toml).to_string()
    }

    #[test]
    fn the_embedded_default_is_valid_and_complete() {
        let config = Config::from_toml("").unwrap();
        assert_eq!(config.dicom.ae_title[0].as_str(), "RELAYPACS");
        assert_eq!(config.dicom.admission, Some(Admission::Any));
        assert_eq!(config.spool.dir, Path::new("./data/spool"));
        assert_eq!(config.database.url, "sqlite://./data/relaypacs.db");
        assert_eq!(config.http.public_url, "http://127.0.0.1:8080");
        assert!(!config.node.name.is_empty());
    }

    #[test]
    fn the_embedded_default_documents_every_key() {
        let tables = "[[dicom.peers]]\nae_title = \"A\"\n[[rules]]\nname = \"r\"\nto = [\"a\"]\n\
                      [[destinations]]\nname = \"a\"\nkind = \"dimse\"\nae_title = \"A\"\nhost = \"h\"\nport = 1\n";
        let value = serde_json::to_value(Config::from_toml(tables).unwrap()).unwrap();
        let mut checked = 0;
        for (section, keys) in value.as_object().unwrap() {
            for (key, value) in keys.as_array().map_or(keys, |tables| &tables[0]).as_object().unwrap() {
                let key_of_peers =
                    value[0].as_object().into_iter().flatten().map(|(key, _)| ("dicom.peers", key));
                for (section, key) in [(section.as_str(), key)].into_iter().chain(key_of_peers) {
                    assert!(documents(section, key), "{section}.{key}");
                    checked += 1;
                }
            }
        }
        assert!(checked > 60, "only {checked} keys were found");
    }

    /// Whether the default has this key, or shows it in a comment, in this section.
    fn documents(section: &str, key: &str) -> bool {
        let mut current = "";
        DEFAULT_TOML.lines().map(|line| line.trim_start_matches(['#', ' '])).any(|line| {
            if line.starts_with('[') && line.trim_end().ends_with(']') {
                current = line.trim().trim_matches(['[', ']']);
            }
            let is_list_of_tables = current == format!("{section}.{key}");
            is_list_of_tables || current == section && line.starts_with(&format!("{key} ="))
        })
    }

    #[test]
    fn the_embedded_default_says_how_many_associations_a_destination_may_have() {
        let most = validate::MOST_ASSOCIATIONS_PER_DESTINATION;
        let line = DEFAULT_TOML.lines().find(|line| line.starts_with("# associations = ")).unwrap();
        assert!(line.ends_with(&format!("at most {most}")), "{line}");
    }

    #[test]
    fn the_effective_configuration_can_be_given_back_as_a_file() {
        let printed = Config::from_toml("[dicom]\nlisten = \"127.0.0.1:104\"").unwrap().to_toml().unwrap();
        assert_eq!(Config::from_toml(&printed).unwrap().to_toml().unwrap(), printed);
    }

    #[test]
    fn the_interfaces_example_is_understood() {
        let config = Config::from_toml(include_str!("../../config/example.toml")).unwrap();
        assert_eq!(config.destinations.len(), 1);
        assert_eq!(config.rules[0].to, ["pacs"]);
        assert_eq!(config.dicom.peers[0].allow, ["10.1.4.0/24"]);
    }

    #[test]
    fn an_unknown_key_is_named() {
        assert_eq!(refusal("[dicom]\nae_titel = \"X\""), "dicom.ae_titel is not a key of the configuration");
        assert_eq!(refusal("[auth]\n"), "auth is not a key of the configuration");
        let destination = "[[destinations]]\nname = \"a\"\nkind = \"dimse\"\nports = 1";
        assert!(refusal(destination).contains("ports is not a key"), "{}", refusal(destination));
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_named_with_its_key() {
        for (toml, key) in [
            ("[limits]\npdu = \"128 KB\"", "limits.pdu: "),
            ("[limits]\nartim = 30", "limits.artim: "),
            ("[dicom]\nlisten = [\"localhost\"]", "dicom.listen"),
            ("[dicom]\nae_title = \"SEVENTEEN_LETTERS\"", "dicom.ae_title: "),
            ("[spool]\ndurability = \"maybe\"", "spool.durability: "),
        ] {
            assert!(refusal(toml).starts_with(key), "{}", refusal(toml));
        }
    }

    #[test]
    fn a_file_that_is_not_toml_is_refused_in_one_line() {
        let sentence = refusal("[dicom]\n[dicom]\n");
        assert!(sentence.contains("line 2") && sentence.contains("duplicate key"), "{sentence}");
        assert_eq!(sentence.lines().count(), 1);
    }

    #[test]
    fn one_value_is_taken_where_a_list_may_stand() {
        let config = Config::from_toml("[dicom]\nae_title = [\"A\", \"B\"]\nlisten = \"[::1]:104\"").unwrap();
        assert_eq!(config.dicom.ae_title.len(), 2);
        assert_eq!(config.dicom.listen[0].port(), 104);
    }

    #[test]
    fn admission_of_any_needs_loopback_or_a_word_that_it_is_meant() {
        let open = "[dicom]\nlisten = \"0.0.0.0:11112\"\n";
        assert_eq!(Config::from_toml(open).unwrap().dicom.admission, Some(Admission::Known));
        assert!(refusal(&format!("{open}admission = \"any\"")).starts_with("dicom.admission: "));
        let meant = format!("{open}admission = \"any\"\nopen_listener = true");
        assert_eq!(Config::from_toml(&meant).unwrap().dicom.admission, Some(Admission::Any));
    }

    #[test]
    fn impossible_combinations_name_their_key() {
        let dimse = "[[destinations]]\nname = \"a\"\nkind = \"dimse\"\nae_title = \"A\"\nhost = \"h\"\n";
        let stow = "[[destinations]]\nname = \"a\"\nkind = \"stow\"\nverify = \"query\"\n";
        let cases = [
            ("[telemetry]\nlisten = \"0.0.0.0:9464\"".to_owned(), "telemetry.token_file: "),
            ("[telemetry]\ntoken_file = \"/nonexistent\"".to_owned(), "telemetry.token_file: "),
            ("[database]\nurl = \"postgres://u:secret@h/d\"".to_owned(), "database.url: "),
            ("[database]\nurl = \"mysql://h/d\"".to_owned(), "database.url: "),
            ("[spool]\nhigh_watermark = 0.96".to_owned(), "spool.critical_watermark: "),
            ("[spool]\ninline_limit = \"32 MiB\"".to_owned(), "spool.inline_limit: "),
            ("[spool]\nsegment_size = \"4 GiB\"".to_owned(), "spool.segment_size: "),
            ("[limits]\ndepth = 0".to_owned(), "limits.depth: "),
            (dimse.to_owned(), "destinations.a.port: "),
            (format!("{dimse}port = 104\nusername = \"u\""), "destinations.a.username: "),
            (format!("{dimse}port = 104\nassociations = 33"), "destinations.a.associations: "),
            (stow.to_owned(), "destinations.a.url: "),
            (format!("{stow}url = \"ftp://h/\""), "destinations.a.url: "),
            (format!("{stow}url = \"http://u:p@h/\""), "destinations.a.url: "),
            ("[[rules]]\nname = \"r\"\nto = []".to_owned(), "rules.r.to: "),
            (
                "[[dicom.peers]]\nae_title = \"P\"\nallow = [\"10.1.4.0/33\"]".to_owned(),
                "dicom.peers.P.allow: ",
            ),
            ("[dicom]\nlisten = []\n[http]\nlisten = []".to_owned(), "dicom.listen: "),
        ];
        for (toml, key) in cases {
            let sentence = refusal(&toml);
            assert!(sentence.starts_with(key), "{sentence}");
            assert!(!sentence.contains("secret") || sentence.contains("_file"), "{sentence}");
        }
    }
}
