//! A picture of a run: rates above, latencies below, over the same time.

use std::path::Path;

use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::bench::report::{scaled, time};
use crate::bench::timeline::{Point, Timeline};

const WIDTH: u32 = 960;
const HEIGHT: u32 = 640;
const MARGIN: u32 = 12;
/// Room for the labels of the axes.
const LEFT: u32 = 80;
const BOTTOM: u32 = 40;
const FONT: (&str, u32) = ("sans-serif", 15);
const TITLE: (&str, u32) = ("sans-serif", 18);
const LINE_WIDTH: u32 = 2;
const BLUE_LINE: RGBColor = RGBColor(31, 119, 180);
const ORANGE_LINE: RGBColor = RGBColor(214, 95, 14);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A line with its name; it has a gap where there is no value.
struct Line {
    name: &'static str,
    color: RGBColor,
    value: fn(&Point) -> Option<f64>,
}

/// One of the two charts.
struct Chart {
    title: &'static str,
    lines: [Line; 2],
    /// What the height of a point means.
    label: fn(&f64) -> String,
    /// The axis begins here, or at the least value.
    from: Option<f64>,
}

const RATES: Chart = Chart {
    title: "messages a second",
    lines: [
        Line { name: "published", color: ORANGE_LINE, value: |point| Some(point.published) },
        Line { name: "received", color: BLUE_LINE, value: |point| Some(point.received) },
    ],
    label: |rate| scaled(*rate),
    from: Some(0.0),
};

/// Heights are logarithms of microseconds.
const LATENCIES: Chart = Chart {
    title: "latency",
    lines: [
        Line { name: "99 of 100", color: ORANGE_LINE, value: |point| Some(point.latency?.1.log10()) },
        Line { name: "median", color: BLUE_LINE, value: |point| Some(point.latency?.0.log10()) },
    ],
    label: |exponent| time(10f64.powf(*exponent)),
    from: None,
};

/// Writes the picture.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn draw(timeline: &Timeline, file: &Path) -> anyhow::Result<()> {
    let root = SVGBackend::new(file, (WIDTH, HEIGHT)).into_drawing_area();
    let drawn = || -> Result<(), Box<dyn std::error::Error>> {
        root.fill(&WHITE)?;
        let (above, below) = root.split_vertically(HEIGHT / 2);
        RATES.draw(&timeline.points, &above)?;
        LATENCIES.draw(&timeline.points, &below)?;
        Ok(root.present()?)
    };
    // Errors of the library are no errors of threads.
    drawn().map_err(|error| anyhow!("{error}"))
}

impl Chart {
    fn draw(&self, points: &[Point], area: &Area<'_>) -> Result<(), Box<dyn std::error::Error>> {
        let values =
            || points.iter().flat_map(|point| self.lines.iter().filter_map(|line| (line.value)(point)));
        let least = self.from.unwrap_or_else(|| values().fold(f64::INFINITY, f64::min));
        let most = values().fold(f64::NEG_INFINITY, f64::max);
        // Nothing was measured: the axes are drawn all the same.
        let (least, most) = if least <= most { (least, most) } else { (0.0, 1.0) };
        let seconds = points.last().map_or(1.0, |point| point.seconds);
        let mut chart = ChartBuilder::on(area)
            .caption(self.title, TITLE)
            .margin(MARGIN)
            .x_label_area_size(BOTTOM)
            .y_label_area_size(LEFT)
            .build_cartesian_2d(0.0..seconds, least..most + (most - least).max(0.1) * 0.1)?;
        chart
            .configure_mesh()
            .x_desc("seconds")
            .y_label_formatter(&self.label)
            .label_style(FONT)
            .light_line_style(TRANSPARENT)
            .draw()?;
        for line in &self.lines {
            let place = |point: &Point| Some((point.seconds, (line.value)(point)?));
            let style = line.color.stroke_width(LINE_WIDTH);
            let key = move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], style);
            chart
                .draw_series(LineSeries::new(points.iter().filter_map(place), style))?
                .label(line.name)
                .legend(key);
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .label_font(FONT)
            .draw()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::draw;
    use crate::bench::timeline::{Point, Timeline};

    #[test]
    fn a_run_is_drawn_with_its_axes_and_names() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("run.svg");
        let mut timeline = Timeline::default();
        for (second, latency) in [(1.0, None), (2.0, Some((100.0, 2000.0)))] {
            timeline.points.push(Point { seconds: second, published: 2e6, received: 1e6, latency });
        }
        draw(&timeline, &file).unwrap();
        let svg = std::fs::read_to_string(&file).unwrap();
        for text in ["messages a second", "latency", "median", "published", "seconds"] {
            assert!(svg.contains(text), "{text} is missing");
        }
        draw(&Timeline::default(), &file).unwrap();
        assert!(draw(&timeline, &dir.path().join("nowhere/run.svg")).is_err());
    }
}
