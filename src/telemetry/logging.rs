//! Log lines on standard error: one event, one line, whatever a peer put into it. What is logged
//! is decided where it is logged; nothing here knows about patients.

use std::io::Write;

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, TelemetryConfig};

/// Once per process, before anything is logged. A second call changes nothing.
pub fn start(config: &TelemetryConfig) {
    // Validated with the configuration.
    let filter = EnvFilter::try_new(&config.log_filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(OneLineEach::stderr)
        // Told on the same standard error, which may be that of a terminal that was closed: a panic.
        .log_internal_errors(false);
    let _ = match config.log {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Pretty => builder.try_init(),
    };
    log_panics();
}

/// For commands, whose result is on standard output: warnings and errors only.
pub fn start_for_commands() {
    let builder = tracing_subscriber::fmt().with_env_filter(EnvFilter::new("warn"));
    let _ = builder.with_ansi(false).with_target(false).with_writer(OneLineEach::stderr).try_init();
}

/// A panic is logged with its place and without its message, which may quote what a peer sent.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        tracing::error!(place, thread, "a task panicked at {place}");
    }));
}

/// Writes each event, which the formatter hands over whole, as exactly one line: control
/// characters inside it are escaped, so that no value can forge a line or reach a terminal.
struct OneLineEach<W>(W);

impl OneLineEach<std::io::Stderr> {
    fn stderr() -> Self {
        Self(std::io::stderr())
    }
}

impl<W: Write> Write for OneLineEach<W> {
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        let line = event.strip_suffix(b"\n").unwrap_or(event);
        if !line.iter().any(u8::is_ascii_control) {
            self.0.write_all(event)?;
            return Ok(event.len());
        }
        let mut escaped = Vec::with_capacity(event.len() + 16);
        for byte in line {
            if byte.is_ascii_control() {
                escaped.extend(byte.escape_ascii());
            } else {
                escaped.push(*byte);
            }
        }
        escaped.push(b'\n');
        self.0.write_all(&escaped)?;
        Ok(event.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(event: &str) -> String {
        let mut writer = OneLineEach(Vec::new());
        writer.write_all(event.as_bytes()).unwrap();
        String::from_utf8(writer.0).unwrap()
    }

    #[test]
    fn a_value_with_line_ends_or_escapes_stays_on_its_line() {
        assert_eq!(
            written("INFO peer=A\r\n{\"level\":\"audit\"}\n"),
            "INFO peer=A\\r\\n{\"level\":\"audit\"}\n"
        );
        assert_eq!(written("title=\u{1b}[2J\n"), "title=\\x1b[2J\n");
    }

    #[test]
    fn a_plain_event_is_written_as_it_is() {
        assert_eq!(written("INFO name=Müller\n"), "INFO name=Müller\n");
    }
}
