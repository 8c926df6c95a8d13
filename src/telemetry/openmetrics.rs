//! What `/metrics` shows, as OTLP has it: one source, so that the two cannot differ.
//!
//! ```text
//! registry ─► OpenMetrics text ─► samples ─► sums, gauges, histograms
//! ```
//!
//! Used by the task that sends metrics. Names stay as they are but for `_total`, which a collector
//! that turns them into Prometheus' puts back. Counts of buckets are each bucket's own here, and
//! of all below it there. What is not of the form that the text has is passed over.

use std::iter::Peekable;
use std::str::Chars;

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum,
};

use super::otlp::text as attribute;

/// When the counts began, and when they were read, in nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) began_ns: u64,
    pub(super) read_ns: u64,
}

/// What a text of OpenMetrics says.
pub(super) fn read(text: &str, times: Times) -> Vec<Metric> {
    let mut families = Vec::new();
    let (mut help, mut family) = (String::new(), None::<Family>);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').unwrap_or_default().1.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            families.extend(family.take());
            let (name, kind) = rest.split_once(' ').unwrap_or_default();
            family = Some(Family::new(name, kind, std::mem::take(&mut help)));
        } else if let (Some(family), Some(sample)) = (&mut family, Sample::read(line)) {
            family.take(sample);
        }
    }
    families.extend(family);
    let metrics = families.into_iter().map(|family| family.metric(times));
    metrics.collect()
}

/// One line that is no comment.
#[derive(Debug, PartialEq)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Sample {
    fn read(line: &str) -> Option<Self> {
        if line.starts_with('#') {
            return None;
        }
        let ends = line.find(['{', ' '])?;
        let (name, rest) = line.split_at(ends);
        let mut rest = rest.chars().peekable();
        let labels = match rest.next_if_eq(&'{') {
            Some(_) => labels(&mut rest)?,
            None => Vec::new(),
        };
        let value: String = rest.collect();
        // Behind it there may be an instant and an example.
        let value = value.split_whitespace().next()?.parse().ok()?;
        Some(Self {
            name: name.to_owned(),
            labels,
            value,
        })
    }
}

/// Up to the closing brace.
fn labels(text: &mut Peekable<Chars<'_>>) -> Option<Vec<(String, String)>> {
    let mut labels = Vec::new();
    loop {
        match text.next()? {
            '}' => return Some(labels),
            ',' => {}
            first => {
                let mut name = String::from(first);
                while text.peek()? != &'=' {
                    name.push(text.next()?);
                }
                text.next();
                text.next_if_eq(&'"')?;
                labels.push((name, quoted(text)?));
            }
        }
    }
}

/// Up to the closing quote.
fn quoted(text: &mut Peekable<Chars<'_>>) -> Option<String> {
    let mut value = String::new();
    loop {
        match text.next()? {
            '"' => return Some(value),
            '\\' => value.push(match text.next()? {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
}

/// The samples of one metric.
struct Family {
    name: String,
    kind: Kind,
    help: String,
    points: Vec<(Vec<(String, String)>, f64)>,
    histograms: Vec<(Vec<(String, String)>, Buckets)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Histogram,
    Gauge,
}

#[derive(Default)]
struct Buckets {
    sum: f64,
    // Upper bounds, and how many lie at or below each.
    below: Vec<(f64, f64)>,
}

impl Family {
    fn new(name: &str, kind: &str, help: String) -> Self {
        Self {
            name: name.to_owned(),
            kind: match kind {
                "counter" => Kind::Counter,
                "histogram" => Kind::Histogram,
                _ => Kind::Gauge,
            },
            help,
            points: Vec::new(),
            histograms: Vec::new(),
        }
    }

    fn take(&mut self, sample: Sample) {
        let Sample {
            name,
            mut labels,
            value,
        } = sample;
        if self.kind != Kind::Histogram {
            self.points.push((labels, value));
            return;
        }
        let bound = labels.iter().position(|(name, _)| name == "le");
        let bound = bound.map(|at| labels.remove(at).1);
        let known = self.histograms.iter().position(|(of, _)| *of == labels);
        let at = known.unwrap_or_else(|| {
            self.histograms.push((labels, Buckets::default()));
            self.histograms.len() - 1
        });
        let histogram = &mut self.histograms[at].1;
        match bound.as_deref() {
            Some("+Inf") => histogram.below.push((f64::INFINITY, value)),
            Some(bound) => histogram
                .below
                .extend(bound.parse().ok().map(|bound: f64| (bound, value))),
            None if name.ends_with("_sum") => histogram.sum = value,
            // How many there are the last bucket says, too.
            None => {}
        }
    }

    fn metric(self, times: Times) -> Metric {
        let points = self.points.into_iter();
        let points = points.map(|(labels, value)| NumberDataPoint {
            attributes: attributes(labels),
            start_time_unix_nano: match self.kind {
                Kind::Gauge => 0,
                _ => times.began_ns,
            },
            time_unix_nano: times.read_ns,
            value: Some(Value::AsDouble(value)),
            ..NumberDataPoint::default()
        });
        let aggregation_temporality = AggregationTemporality::Cumulative.into();
        let data = match self.kind {
            Kind::Gauge => Data::Gauge(Gauge {
                data_points: points.collect(),
            }),
            Kind::Counter => Data::Sum(Sum {
                data_points: points.collect(),
                aggregation_temporality,
                is_monotonic: true,
            }),
            Kind::Histogram => Data::Histogram(Histogram {
                data_points: self
                    .histograms
                    .into_iter()
                    .map(|(labels, buckets)| buckets.point(labels, times))
                    .collect(),
                aggregation_temporality,
            }),
        };
        Metric {
            name: self.name,
            description: self.help,
            data: Some(data),
            ..Metric::default()
        }
    }
}

impl Buckets {
    fn point(self, labels: Vec<(String, String)>, times: Times) -> HistogramDataPoint {
        let mut before = 0.0;
        let counts = self.below.iter().map(|(_, below)| {
            let own = below - before;
            before = *below;
            own as u64
        });
        let bucket_counts: Vec<u64> = counts.collect();
        let bounds = self.below.iter().map(|(bound, _)| *bound);
        HistogramDataPoint {
            attributes: attributes(labels),
            start_time_unix_nano: times.began_ns,
            time_unix_nano: times.read_ns,
            count: bucket_counts.iter().sum(),
            sum: Some(self.sum),
            bucket_counts,
            explicit_bounds: bounds.filter(|bound| bound.is_finite()).collect(),
            ..HistogramDataPoint::default()
        }
    }
}

fn attributes(labels: Vec<(String, String)>) -> Vec<KeyValue> {
    let labels = labels.into_iter();
    labels
        .map(|(name, value)| attribute(&name, value))
        .collect()
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::family::Family as Labelled;
    use prometheus_client::metrics::gauge::Gauge as Level;
    use prometheus_client::metrics::histogram::Histogram as Spread;
    use prometheus_client::registry::Registry;

    use super::*;

    const TIMES: Times = Times {
        began_ns: 3,
        read_ns: 7,
    };

    /// Name, labels and value of a sample.
    type Read<'a> = (&'a str, &'a [(&'a str, &'a str)], f64);

    #[track_caller]
    fn check(line: &str, expected: Option<Read<'_>>) {
        let expected = expected.map(|(name, labels, value)| Sample {
            name: name.to_owned(),
            labels: labels
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            value,
        });
        assert_eq!(Sample::read(line), expected, "{line}");
    }

    #[test]
    fn a_sample_is_a_name_with_labels_and_a_value() {
        check("a 1", Some(("a", &[], 1.0)));
        check(
            "a_total{b=\"c\"} 1.5",
            Some(("a_total", &[("b", "c")], 1.5)),
        );
        check(
            "a{b=\"c\",d=\"e\"} 2e3",
            Some(("a", &[("b", "c"), ("d", "e")], 2_000.0)),
        );
        check(
            r#"a{b="},=\"\\\n"} 0"#,
            Some(("a", &[("b", "},=\"\\\n")], 0.0)),
        );
        check(
            "a{b=\"c\"} 1 # {x=\"y\"} 2",
            Some(("a", &[("b", "c")], 1.0)),
        );
        check("a +Inf", Some(("a", &[], f64::INFINITY)));
        for other in ["", "a", "a x", "# EOF", "a{b=\"c\" 1", "a{b=c} 1", "a{b} 1"] {
            check(other, None);
        }
    }

    #[test]
    fn what_a_registry_shows_is_sent_as_it_is() {
        let mut registry = Registry::with_prefix("p");
        let (counter, level) = (
            Labelled::<[(&str, String); 1], Counter>::default(),
            Level::<i64>::default(),
        );
        let spread = Spread::new([1.0, 2.0]);
        registry.register("asked", "How often", counter.clone());
        registry.register("open", "How many", level.clone());
        registry.register("seconds", "How long", spread.clone());
        counter
            .get_or_create(&[("why", "a\"b".to_owned())])
            .inc_by(3);
        level.set(-2);
        for value in [0.5, 1.5, 2.0, 9.0] {
            spread.observe(value);
        }
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let metrics = read(&text, TIMES);
        let names: Vec<&str> = metrics.iter().map(|metric| metric.name.as_str()).collect();
        assert_eq!(names, ["p_asked", "p_open", "p_seconds"]);
        assert!(metrics[0].description.starts_with("How often"));
        let Some(Data::Sum(sum)) = &metrics[0].data else {
            panic!("{metrics:?}")
        };
        assert!(sum.is_monotonic);
        let point = &sum.data_points[0];
        assert_eq!(point.attributes, [attribute("why", "a\"b")]);
        assert_eq!(point.value, Some(Value::AsDouble(3.0)));
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (3, 7));
        let Some(Data::Gauge(gauge)) = &metrics[1].data else {
            panic!("{metrics:?}")
        };
        assert_eq!(gauge.data_points[0].value, Some(Value::AsDouble(-2.0)));
        let Some(Data::Histogram(histogram)) = &metrics[2].data else {
            panic!("{metrics:?}")
        };
        let point = &histogram.data_points[0];
        assert_eq!(point.explicit_bounds, [1.0, 2.0]);
        assert_eq!(point.bucket_counts, [1, 2, 1]);
        assert_eq!((point.count, point.sum), (4, Some(13.0)));
    }
}
