//! The log on standard error: text for a person at a terminal, JSON otherwise. Traces over OTLP where an endpoint is given.

use std::io::IsTerminal;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer};

use crate::version;

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Text where standard error is a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// What is logged, how, and where traces go.
#[derive(Debug, Clone)]
pub struct Options {
    /// Levels per module, in tracing-subscriber's form: `info`, `info,im_connect=debug`.
    pub filter: String,
    /// How lines are written.
    pub format: Format,
    /// Where traces are sent over OTLP/gRPC, for example `http://collector:4317`; nowhere if `None`.
    pub otlp_endpoint: Option<String>,
    /// How long the last traces may take to be sent when the process ends.
    pub otlp_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            filter: "info".to_owned(),
            format: Format::Auto,
            otlp_endpoint: None,
            otlp_timeout: Duration::from_secs(3),
        }
    }
}

/// Why logging cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter is not one.
    #[error("the log filter is not understood: {0}")]
    Filter(String),
    /// The OTLP endpoint is not one.
    #[error("traces cannot be sent: {0}")]
    Otlp(String),
    /// Somebody in this process was faster.
    #[error(transparent)]
    Taken(#[from] TryInitError),
}

/// Whether a filter is one; the answer says what to write.
///
/// # Errors
/// What is wrong with it.
pub fn check_filter(filter: &str) -> Result<(), String> {
    let wrong = |what: &dyn std::fmt::Display| {
        format!("{what}; write levels, for example info or info,im_connect=debug")
    };
    EnvFilter::try_new(filter)
        .map(drop)
        .map_err(|error| wrong(&error))
}

/// What [`start`] began; ends it with [`Logs::flush`].
#[derive(Debug)]
pub struct Logs {
    traces: Option<SdkTracerProvider>,
    timeout: Duration,
}

/// Begins logging for the whole process. Called within a tokio runtime, which sends the traces.
///
/// # Errors
/// A filter or endpoint that is not one; or logging had begun before.
pub fn start(options: &Options, service: &'static str, node: &str) -> Result<Logs, Error> {
    let filter =
        EnvFilter::try_new(&options.filter).map_err(|error| Error::Filter(error.to_string()))?;
    let json = match options.format {
        Format::Auto => !std::io::stderr().is_terminal(),
        Format::Text => false,
        Format::Json => true,
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if json {
        lines
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .boxed()
    } else {
        lines.with_ansi(std::io::stderr().is_terminal()).boxed()
    };
    let traces = options
        .otlp_endpoint
        .as_deref()
        .map(|endpoint| provider(endpoint, service, node))
        .transpose()?;
    let spans = traces
        .as_ref()
        .map(|traces| tracing_opentelemetry::layer().with_tracer(traces.tracer(service)));
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .with(spans)
        .try_init()?;
    Ok(Logs {
        traces,
        timeout: options.otlp_timeout,
    })
}

fn provider(endpoint: &str, service: &'static str, node: &str) -> Result<SdkTracerProvider, Error> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build();
    let exporter = exporter.map_err(|error| Error::Otlp(error.to_string()))?;
    let resource = Resource::builder()
        .with_service_name(service)
        .with_attribute(KeyValue::new("service.version", version::VERSION))
        .with_attribute(KeyValue::new("service.instance.id", node.to_owned()))
        .build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build())
}

impl Logs {
    /// Sends the traces that have not been sent yet; takes no longer than the timeout.
    pub fn flush(self) {
        let Some(traces) = self.traces else { return };
        if let Err(error) = traces.shutdown_with_timeout(self.timeout) {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}
