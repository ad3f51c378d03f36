package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// license is the text of a licence, as far as it takes to tell it from all others.
type license struct {
	id string // of SPDX
	// says are sentences of it in lower case, without punctuation, in their order; denies are
	// such as another licence has, which says the same otherwise.
	says, denies []string
	// words is how many it has, without the lines of who wrote what, in its longest form.
	words int
}

// The conditions that BSD licences share, and the one that the third clause is.
var bsd = []string{
	"redistribution and use in source and binary forms with or without modification are " +
		"permitted provided that the following conditions are met",
	"redistributions of source code must retain the above copyright notice this list of " +
		"conditions and the following disclaimer",
	"redistributions in binary form must reproduce the above copyright notice this list of " +
		"conditions and the following disclaimer in the documentation and or other materials " +
		"provided with the distribution",
	"be liable for any direct indirect incidental special exemplary or consequential damages",
}

const (
	bsdNames = "may be used to endorse or promote products derived from this software without " +
		"specific prior written permission"
	bsdAdvertising = "all advertising materials mentioning features or use of this software"
)

// licenses are those that modules of ours have, and some that they could have.
var licenses = []license{
	{id: "MIT", words: 165, says: []string{
		"permission is hereby granted free of charge to any person obtaining a copy of this software " +
			"and associated documentation files the software to deal in the software without restriction",
		"the above copyright notice and this permission notice shall be included in all copies or " +
			"substantial portions of the software",
		"the software is provided as is without warranty of any kind",
	}},
	{id: "ISC", words: 120, says: []string{
		"permission to use copy modify and or distribute this software for any purpose with or " +
			"without fee is hereby granted provided that the above copyright notice and this " +
			"permission notice appear in all copies",
		"the software is provided as is and the author disclaims all warranties",
	}},
	{id: "BSD-2-Clause", words: 185, says: bsd, denies: []string{bsdNames, bsdAdvertising}},
	{id: "BSD-3-Clause", words: 215, says: slices.Insert(slices.Clone(bsd), 3, bsdNames),
		denies: []string{bsdAdvertising}},
	{id: "Apache-2.0", words: 1580, says: []string{
		"apache license version 2 0 january 2004",
		"terms and conditions for use reproduction and distribution",
		"grant of copyright license subject to the terms and conditions of this license each " +
			"contributor hereby grants to you",
		"grant of patent license subject to the terms and conditions of this license each " +
			"contributor hereby grants to you",
		"redistribution you may reproduce and distribute copies of the work",
		"limitation of liability in no event and under no legal theory",
	}},
	{id: "MPL-2.0", words: 2400, says: []string{
		"mozilla public license version 2 0",
		"means each individual or legal entity that creates contributes to the creation of or owns " +
			"covered software",
		"responsibilities",
		"if you distribute covered software in executable form then",
		"under no circumstances and under no legal theory",
		"this source code form is subject to the terms of the mozilla public license v 2 0",
	}},
}

// spareWords is how many words a file may have beside its licences: who wrote what, and when. One
// that says more is not understood.
const spareWords = 60

// identify names the licences whose texts are in a file; none if it has none, or says more.
func identify(text string) []string {
	words := strings.FieldsFunc(strings.ToLower(text), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})
	plain := strings.Join(words, " ")
	rest := len(words)
	var found []string
	for _, l := range licenses {
		if times := l.times(plain); times > 0 {
			found = append(found, l.id)
			rest -= times * l.words
		}
	}
	if rest > spareWords {
		return nil
	}
	return found
}

// times is how often a licence stands in a text.
func (l license) times(text string) int {
	for _, s := range l.denies {
		if strings.Contains(text, s) {
			return 0
		}
	}
	for times := 0; ; times++ {
		for _, s := range l.says {
			var ok bool
			if _, text, ok = strings.Cut(text, s); !ok {
				return times
			}
		}
	}
}

var (
	licenseFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|unlicense)`)
	upperCase   = regexp.MustCompile(`[A-Z]`)
)

// maxLicenseBytes is more than a file of licences has.
const maxLicenseBytes = 1 << 20

// licenseOf is what the files of licences in a module's folder amount to, as an SPDX expression,
// or unknown where one of them is not understood. The folder is in Go's cache of modules. Folders
// in it may have licences of their own: they are not looked at.
func licenseOf(cache, module, version string) (string, error) {
	escape := func(s string) string {
		return upperCase.ReplaceAllStringFunc(s, func(c string) string {
			return "!" + strings.ToLower(c)
		})
	}
	dir := filepath.Join(cache, filepath.FromSlash(escape(module))+"@"+escape(version))
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("licence of %s: %w (go mod download brings it)", module, err)
	}
	var all []string
	for _, e := range entries {
		if !e.Type().IsRegular() || !licenseFile.MatchString(e.Name()) ||
			strings.HasSuffix(e.Name(), ".go") {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return "", err
		}
		if info.Size() > maxLicenseBytes {
			return unknown, nil
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return "", err
		}
		found := identify(string(text))
		if len(found) == 0 {
			return unknown, nil
		}
		all = append(all, found...)
	}
	if len(all) == 0 {
		return unknown, nil
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), " AND "), nil
}
