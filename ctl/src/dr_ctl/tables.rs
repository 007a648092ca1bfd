//! Aligned columns: text to the left, numbers to the right, two spaces between, nothing after the last.

use std::fmt;

/// A column's title and side.
#[derive(Clone, Copy, Debug)]
pub(super) enum Column {
    Text(&'static str),
    Number(&'static str),
}

enum Row {
    Cells(Vec<String>),
    /// Stands between the rows, in no column.
    Line(String),
}

/// Rows under titles.
pub(super) struct Table {
    columns: Vec<Column>,
    rows: Vec<Row>,
}

impl Table {
    pub(super) fn new(columns: impl Into<Vec<Column>>) -> Table {
        let columns = columns.into();
        let titles = columns.iter().map(|column| column.title().to_owned()).collect();
        Table { columns, rows: vec![Row::Cells(titles)] }
    }

    /// Adds a row: as many cells as there are columns.
    pub(super) fn row(&mut self, cells: impl Into<Vec<String>>) {
        let cells = cells.into();
        assert_eq!(cells.len(), self.columns.len(), "one cell a column");
        self.rows.push(Row::Cells(cells));
    }

    /// Adds a line that heeds no column.
    pub(super) fn line(&mut self, line: String) {
        self.rows.push(Row::Line(line));
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths = vec![0; self.columns.len()];
        for row in &self.rows {
            if let Row::Cells(cells) = row {
                for (width, cell) in widths.iter_mut().zip(cells) {
                    *width = (*width).max(cell.chars().count());
                }
            }
        }
        widths
    }
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Column::Text(title) | Column::Number(title) => title,
        }
    }

    fn pad(self, cell: &str, width: usize) -> String {
        match self {
            Column::Text(_) => format!("{cell:<width$}"),
            Column::Number(_) => format!("{cell:>width$}"),
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        for row in &self.rows {
            let line = match row {
                Row::Cells(cells) => {
                    let padded = self.columns.iter().zip(cells).zip(&widths);
                    let cells: Vec<String> =
                        padded.map(|((column, cell), width)| column.pad(cell, *width)).collect();
                    cells.join("  ")
                }
                Row::Line(line) => line.clone(),
            };
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_end_and_text_begins_in_one_column() {
        let mut table = Table::new([Column::Text("Name"), Column::Number("Weight"), Column::Text("State")]);
        table.line("tcp 192.0.2.10:80 wrr".to_owned());
        table.row(["10.0.0.1".into(), "1".into(), "up".into()]);
        table.row(["10.0.0.12".into(), "65535".into(), String::new()]);
        assert_eq!(
            table.to_string(),
            "Name       Weight  State\ntcp 192.0.2.10:80 wrr\n10.0.0.1        1  up\n10.0.0.12   65535\n"
        );
    }
}
