package main

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// width bounds the lines of help.
const width = 79

// wrap fills lines with the words of a text, behind an indent. Paragraphs have an
// empty line between them.
func wrap(text string, indent int) string {
	var out strings.Builder
	for i, paragraph := range strings.Split(text, "\n\n") {
		if i > 0 {
			out.WriteByte('\n')
		}
		line := ""
		for _, word := range strings.Fields(paragraph) {
			if line != "" && indent+utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
				out.WriteString(strings.Repeat(" ", indent) + line + "\n")
				line = ""
			}
			line = strings.TrimSpace(line + " " + word)
		}
		out.WriteString(strings.Repeat(" ", indent) + line + "\n")
	}
	return out.String()
}

// columns puts the text of each item beside its name.
func columns(items []item) string {
	longest := 0
	for _, i := range items {
		longest = max(longest, len(i.name))
	}
	var out strings.Builder
	for _, i := range items {
		text := wrap(i.text, longest+2)
		out.WriteString(i.name + text[len(i.name):])
	}
	return out.String()
}

// below puts the text of each item under its name.
func below(items []item) string {
	var out strings.Builder
	for _, i := range items {
		out.WriteString("  " + i.name + "\n" + wrap(i.text, 8))
	}
	return out.String()
}

// sentence adds a capital and a full stop.
func sentence(text string) string {
	first, size := utf8.DecodeRuneInString(text)
	text = string(unicode.ToUpper(first)) + text[size:]
	if !strings.HasSuffix(text, ".") {
		text += "."
	}
	return text
}
