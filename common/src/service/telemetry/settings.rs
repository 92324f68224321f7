//! The standard OpenTelemetry variables, checked: a typing error must not turn traces off silently.

/// The collector of the traces, and the sampled share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExportSettings {
    pub(super) collector: CollectorSettings,
    pub(super) sampler: String,
}

/// The collector of one kind of telemetry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CollectorSettings {
    /// The whole URL, with the path of HTTP.
    pub(crate) endpoint: String,
    pub(super) protocol: Protocol,
    /// The variable with the path of a file of certificates, and the path. `None`: the certificates of this machine.
    pub(super) certificate: Option<(&'static str, String)>,
}

/// The form of OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Grpc,
    /// Protobuf over HTTP/1.1.
    Http,
}

impl CollectorSettings {
    /// Whether the connection uses TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.endpoint.starts_with(HTTPS)
    }
}

const HTTP: &str = "http://";
const HTTPS: &str = "https://";

/// The variables of one kind of telemetry.
#[derive(Clone, Copy)]
struct Signal {
    exporter: &'static str,
    /// Values of `exporter` for no export.
    off: &'static [&'static str],
    /// The more specific variable first.
    endpoints: [&'static str; 2],
    /// The more specific variable first.
    protocols: [&'static str; 2],
    /// The more specific variable first.
    certificates: [&'static str; 2],
    /// The path of HTTP behind the general endpoint.
    path: &'static str,
}

const TRACES: Signal = Signal {
    exporter: "OTEL_TRACES_EXPORTER",
    off: &["none"],
    endpoints: [
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ],
    protocols: [
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
    ],
    certificates: [
        "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
        "OTEL_EXPORTER_OTLP_CERTIFICATE",
    ],
    path: "/v1/traces",
};
const METRICS: Signal = Signal {
    exporter: "OTEL_METRICS_EXPORTER",
    // `/metrics` is served in any case.
    off: &["none", "prometheus"],
    endpoints: [
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ],
    protocols: [
        "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
    ],
    certificates: [
        "OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE",
        "OTEL_EXPORTER_OTLP_CERTIFICATE",
    ],
    path: "/v1/metrics",
};
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";
const SAMPLER_DEFAULT: &str = "parentbased_always_on";

impl ExportSettings {
    /// Reads the variables; none when traces are not exported.
    ///
    /// # Errors
    /// Names the variable, its value and the valid values.
    pub(super) fn from_env(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, String> {
        let Some(collector) = collector(&variable, TRACES)? else {
            return Ok(None);
        };
        let get = |name| get(&variable, name);
        let sampler = get(SAMPLER).unwrap_or_else(|| SAMPLER_DEFAULT.to_owned());
        match sampler.as_str() {
            "always_on" | "always_off" | "parentbased_always_on" | "parentbased_always_off" => {}
            "traceidratio" | "parentbased_traceidratio" => {
                let share = get(SAMPLER_ARGUMENT).unwrap_or_default();
                if !share
                    .parse::<f64>()
                    .is_ok_and(|share| (0.0..=1.0).contains(&share))
                {
                    return Err(format!(
                        "{SAMPLER_ARGUMENT} is {share:?}: give the share of traces to sample, from 0 to 1, for example 0.01"
                    ));
                }
            }
            other => {
                return Err(format!(
                    "{SAMPLER} is {other:?}: give always_on, always_off, traceidratio, or one of them with parentbased_ \
                     before it; {SAMPLER_DEFAULT} when it is not set"
                ));
            }
        }
        Ok(Some(Self { collector, sampler }))
    }
}

/// The collector of metrics, by the same rules; none when metrics are not exported.
///
/// # Errors
/// As [`ExportSettings::from_env`].
pub(crate) fn metrics_collector(
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<CollectorSettings>, String> {
    collector(variable, METRICS)
}

/// The value of a variable; an empty variable counts as unset.
fn get(variable: impl Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    variable(name)
        .map(|value| value.trim().to_owned())
        .filter(|value| !value.is_empty())
}

/// The collector of one kind of telemetry; none when not exported.
fn collector(
    variable: impl Fn(&str) -> Option<String>,
    signal: Signal,
) -> Result<Option<CollectorSettings>, String> {
    let get = |name: &str| get(&variable, name);
    let first = |names: [&'static str; 2]| names.into_iter().find_map(|name| Some((name, get(name)?)));
    let disabled = get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let Some((name, endpoint)) = first(signal.endpoints).filter(|_| !disabled) else {
        return Ok(None);
    };
    match get(signal.exporter).as_deref() {
        None | Some("otlp") => {}
        Some(off) if signal.off.contains(&off) => return Ok(None),
        Some(other) => return Err(format!("{} is {other:?}: give otlp or none", signal.exporter)),
    }
    check_url(name, &endpoint)?;
    let protocol = match first(signal.protocols) {
        None => Protocol::Grpc,
        Some((_, protocol)) if protocol == "grpc" => Protocol::Grpc,
        Some((_, protocol)) if protocol == "http/protobuf" => Protocol::Http,
        Some((name, other)) => {
            return Err(format!(
                "{name} is {other:?}: give grpc or http/protobuf; grpc when it is not set"
            ));
        }
    };
    // The standard: only the general endpoint gets a path.
    let endpoint = match protocol {
        Protocol::Http if name == signal.endpoints[1] => {
            format!("{}{}", endpoint.trim_end_matches('/'), signal.path)
        }
        Protocol::Http | Protocol::Grpc => endpoint,
    };
    Ok(Some(CollectorSettings {
        endpoint,
        protocol,
        certificate: first(signal.certificates),
    }))
}

/// Checks an endpoint from the variable `name`.
fn check_url(name: &str, endpoint: &str) -> Result<(), String> {
    let rest = [HTTP, HTTPS]
        .iter()
        .find_map(|scheme| endpoint.strip_prefix(scheme));
    let is_url = rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', ':']));
    if is_url && endpoint.parse::<tonic::transport::Uri>().is_ok() {
        return Ok(());
    }
    Err(format!(
        "{name} is {endpoint:?}: give http://HOST:PORT or https://HOST:PORT of a collector that takes OTLP, for example \
         http://127.0.0.1:4317"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<ExportSettings>, String> {
        ExportSettings::from_env(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://jaeger:4317");

    #[test]
    fn nothing_is_exported_without_an_endpoint_or_when_turned_off() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]), Ok(None));
        assert_eq!(read(&[ENDPOINT, ("OTEL_SDK_DISABLED", "true")]), Ok(None));
        assert_eq!(read(&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")]), Ok(None));
    }

    #[test]
    fn endpoint_of_traces_goes_before_the_general_one() {
        let settings = read(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://other:1")]);
        assert_eq!(settings.unwrap().unwrap().collector.endpoint, "http://other:1");
        assert_eq!(read(&[ENDPOINT]).unwrap().unwrap().sampler, SAMPLER_DEFAULT);
    }

    #[test]
    fn metrics_have_an_endpoint_and_a_switch_of_their_own() {
        let read = |variables: &[(&str, &str)]| {
            let collector = metrics_collector(|name| {
                let found = variables.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            });
            collector.map(|collector| collector.map(|collector| collector.endpoint))
        };
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[ENDPOINT]), Ok(Some(ENDPOINT.1.to_owned())));
        let own = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://other:1");
        assert_eq!(read(&[ENDPOINT, own]), Ok(Some(own.1.to_owned())));
        assert_eq!(read(&[ENDPOINT, ("OTEL_METRICS_EXPORTER", "none")]), Ok(None));
        assert_eq!(read(&[ENDPOINT, ("OTEL_SDK_DISABLED", "true")]), Ok(None));
        assert!(read(&[ENDPOINT, ("OTEL_METRICS_EXPORTER", "statsd")]).is_err());
        assert!(read(&[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "jaeger:4317")]).is_err());
    }

    #[test]
    fn http_adds_its_path_to_the_general_endpoint_only() {
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://other:1/here");
        let protocol = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
        let general = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://jaeger:4318/base/");
        let collector = |variables: &[_]| read(variables).unwrap().unwrap().collector;
        let seen = collector(&[general, protocol]);
        assert_eq!(
            (seen.endpoint.as_str(), seen.protocol, seen.is_secure()),
            ("https://jaeger:4318/base/v1/traces", Protocol::Http, true)
        );
        assert_eq!(collector(&[general, protocol, own]).endpoint, own.1);
        let grpc = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc");
        let seen = collector(&[
            general,
            protocol,
            grpc,
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
        ]);
        assert_eq!(
            (seen.endpoint.as_str(), seen.protocol),
            (general.1, Protocol::Grpc)
        );
        assert_eq!(
            seen.certificate,
            Some(("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem".to_owned()))
        );
    }

    #[test]
    fn what_makes_no_sense_is_named_with_what_would() {
        for (variable, value, expected) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "jaeger:4317", "http://HOST:PORT"),
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                "https://:4317",
                "https://HOST:PORT",
            ),
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                "ftp://jaeger:4317",
                "https://HOST:PORT",
            ),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://", "http://HOST:PORT"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a b:1", "http://HOST:PORT"),
            (
                "OTEL_EXPORTER_OTLP_PROTOCOL",
                "http/json",
                "grpc or http/protobuf",
            ),
            ("OTEL_TRACES_EXPORTER", "zipkin", "otlp or none"),
            ("OTEL_TRACES_SAMPLER", "always", "always_on"),
            ("OTEL_TRACES_SAMPLER", "traceidratio", "from 0 to 1"),
        ] {
            let error = read(&[(variable, value), ENDPOINT]).unwrap_err();
            assert!(error.contains(expected), "{variable}={value}: {error}");
        }
        let error = read(&[
            ENDPOINT,
            (SAMPLER, "parentbased_traceidratio"),
            (SAMPLER_ARGUMENT, "1.5"),
        ]);
        assert!(error.unwrap_err().contains("\"1.5\""));
    }
}
