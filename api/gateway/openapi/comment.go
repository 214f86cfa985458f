package openapi

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Comments are what the contracts say in words of their services, procedures,
// messages, fields and enum values, by full name. Compiled descriptors do not
// carry them.
type Comments map[protoreflect.FullName]string

// ReadComments reads the comments of .proto files, named by their paths below one
// of the folders.
func ReadComments(ctx context.Context, folders, files []string) (Comments, error) {
	compiler := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: folders}),
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	compiled, err := compiler.Compile(ctx, files...)
	if err != nil {
		return nil, fmt.Errorf("compile the contracts: %w", err)
	}
	comments := make(Comments)
	for _, file := range compiled {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			comments.add(service)
			for j := range service.Methods().Len() {
				comments.add(service.Methods().Get(j))
			}
		}
		comments.addMessages(file.Messages())
		comments.addEnums(file.Enums())
	}
	return comments, nil
}

func (c Comments) addMessages(messages protoreflect.MessageDescriptors) {
	for i := range messages.Len() {
		message := messages.Get(i)
		c.add(message)
		for j := range message.Fields().Len() {
			c.add(message.Fields().Get(j))
		}
		c.addMessages(message.Messages())
		c.addEnums(message.Enums())
	}
}

func (c Comments) addEnums(enums protoreflect.EnumDescriptors) {
	for i := range enums.Len() {
		enum := enums.Get(i)
		c.add(enum)
		for j := range enum.Values().Len() {
			c.add(enum.Values().Get(j))
		}
	}
}

// add notes a comment as one line: the contracts have no paragraphs in theirs.
func (c Comments) add(thing protoreflect.Descriptor) {
	location := thing.ParentFile().SourceLocations().ByDescriptor(thing)
	c[thing.FullName()] = strings.Join(strings.Fields(location.LeadingComments), " ")
}

var exampleWords = regexp.MustCompile(`for example "([^"]+)"`)

// example returns the example that a comment gives, or "".
func example(comment string) string {
	if found := exampleWords.FindStringSubmatch(comment); found != nil {
		return found[1]
	}
	return ""
}

// sentence returns a comment's first sentence without the name it begins with, as
// a heading: "GetBook returns one book, ..." is "Returns one book, ...".
func sentence(comment string, name protoreflect.Name) string {
	first, _, _ := strings.Cut(comment, ". ")
	first = strings.TrimSuffix(strings.TrimPrefix(first, string(name)+" "), ".")
	if first == "" {
		return ""
	}
	return strings.ToUpper(first[:1]) + first[1:]
}
