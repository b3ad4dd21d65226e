"""Records what Jinja2 makes of expressions that chat templates use: runtime/tests/chat/jinja.json.

    pip install transformers==5.24.0 jinja2==3.1.6
    python tests/record/jinja.py

The environment is the one that transformers compiles chat templates in. Each row is a template and its text, or its
error. EXPRESSIONS are recorded inside `{{ }}`, TEMPLATES as they are. A row with "refused" is one that our interpreter
does not support and says so.
"""

import json
import logging
import pathlib
import sys

import jinja2
import transformers
from transformers.utils.chat_template_utils import _compile_jinja_template

FOLDER = pathlib.Path(__file__).resolve().parent.parent.parent / "runtime" / "tests" / "chat"

VARIABLES = {
    "name": "Zürich", "text": "  The quick_brown fox\tjumps-over (the) [lazy] dog  ", "lines": "one\n  two\r\n\nthree\n",
    "think": "<think>\nfirst, second\n</think>\n\nThe answer", "empty": "", "zero": 0, "one": 1, "three": 3, "neg": -7,
    "half": 0.5, "pi": 3.14159, "big": 12345678901234567890, "tiny": 1.5e-7, "huge": 1e16, "yes": True, "no": False,
    "nothing": None, "numbers": [3, 1, 2], "words": ["b", "a", "C", "a"], "mixed": [1, "a", None, True, 2.5, ["x"], {"k": "v"}],
    "nested": {"a": {"b": [1, {"c": "deep"}]}, "items": "an item", "keys": 3, "get": None, "z": 0},
    "quotes": ["it's", 'say "hi"', "both ' and \"", "back\\slash", "new\nline", "tab\t", "\u200b\u00ad\u00a0", "é日🌅", "\x00\x7f"],
    "html": "<b>Tom & \"Jerry's\"</b>", "tags": "<p>One <!-- no --> <b>two</b>&nbsp;&lt;three&gt; &amp; &#39;four&#39;</p>",
    "people": [
        {"name": "Bob", "age": 41, "city": "Rome", "tags": ["x", "y"]}, {"name": "alice", "age": 29, "city": "Oslo"},
        {"name": "Cleo", "age": 35, "city": "Rome", "tags": []},
    ],
    "schema": {
        "type": "object", "required": ["items"],
        "properties": {"items": {"type": "array", "items": {"type": "string"}}, "count": {"type": ["integer", "null"], "default": None}},
    },
    "call": {"function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2, "exact": True}}},
    "pairs": [["a", 1], ["b", 2]], "tree": [{"n": 1, "c": [{"n": 2, "c": [{"n": 3}]}, {"n": 4}]}, {"n": 5}],
}

EXPRESSIONS = r"""
7 % 3 ## 7 % -3 ## -7 % 3 ## neg % 3 ## 7 // 2 ## -7 // 2 ## 7 // -2 ## 7.5 // 2 ## -7.5 // 2 ## 7.5 % 2 ## -7.5 % 2 ## 7.5 % -2
7 / 2 ## 8 / 2 ## 2 ** 10 ## 2 ** -1 ## 2 ** 0.5 ## -2 ** 2 ## 2 ** 3 ** 2 ## 10 ** 16 ## 1e16 ## 1e15 ## 1e-5 ## 0.0001 ## 1_000 ## 0x1f ## 0b11 ## 0o17
1 + 2 * 3 ## (1 + 2) * 3 ## 1 - 2 - 3 ## 2 * 3 ~ 4 ## 1 + 1 ~ 2 ## -1|abs ## -3.0 ## 3 - -3 ## 1.0 ## 1.10 ## 100.0 * 3 ## 0.1 + 0.2 ## 1 / 3 ## big ## big + 1 ## tiny ## huge ## pi * 2
true + true ## yes * 3 ## 1 / 0 ## 1 % 0 ## 1.0 // 0 ## 'a' * 3 ## 3 * 'ab' ## [1, 2] * 2 ## (1,) * 2 ## [1] + [2] ## (1,) + (2,) ## 'a' + 'b' ## 'a' + 1 ## 1 + 'a' ## [1] + (2,) ## nothing + 1
0 and 1 ## 1 and 0 ## 1 and 2 ## '' or 'x' ## 0 or '' ## 0 or none ## nothing or 'default' ## not 0 ## not 'a' ## not [] ## [] and 1 ## {} or [] ## 'a' and 'b' and 'c' ## missing or 'd' ## missing and 1
1 == 1.0 ## true == 1 ## false == 0 ## '1' == 1 ## none == false ## [1, 2] == [1.0, 2] ## (1, 2) == [1, 2] ## {'a': 1} == {'a': 1.0} ## missing == missing ## missing == none ## 'a' != 'b' ## 1 != 1
1 < 2 < 3 ## 3 > 2 > 2 ## 1 < 3 > 2 ## 1 < 2 == true ## 'a' < 'b' ## 'a' < 'B' ## [1, 2] < [1, 3] ## 1 < 'a' ## none < 1 ## 1.5 >= 1 ## 'é' > 'z' ## (1, 'a') <= (1, 'b')
'a' in 'abc' ## 'x' not in 'abc' ## 1 in [1, 2] ## 1.0 in [1] ## 'a' in {'a': 1} ## 1 in 'a' ## 2 in (1, 2) ## '' in 'a' ## missing in [1] ## 'a' in nothing ## none in [none] ## 'a' in missing ## not 1 in [1]
'x' if yes else 'y' ## 'x' if no ## ('x' if no) is defined ## 'x' if no else 'y' if no else 'z' ## ('a' if zero else 'b') ~ 'c'
1 ~ 1.0 ## true ~ '' ## none ~ 'x' ## [1, 'a'] ~ '' ## 'a' ~ missing ~ 'b' ## {'a': true} ~ '' ## 'x' ~ (1, 2)
true ## false ## none ## nothing ## yes ## [] ## {} ## () ## (1,) ## (1, 2) ## (1, ('a', none)) ## [1, [2, 'x']] ## {'a': 1, 'b': [true, none]} ## {1: 'a', none: 2, (1, 2): 3} ## mixed ## nested ## quotes ## [1.0, 1e20, 1e-7] ## pairs[0] ## 'a' 'b' ## 'it\'s' ## "a\tb" ## '\x41\u00e9' ## 'a\db' ## '\/' ## '\\n'
[missing] ## missing ## missing.x ## missing['x'] ## nested.nope ## nested.nope.x ## nested.a.b[1].c ## nested['a']['b'][0] ## nested.items ## nested['items'] ## nested.items() ## nested.keys() ## nested.values()|list ## nested.get('z') ## nested.get('q') ## nested.get('q', 5) ## nested['keys'] ## nested.z ## nested.items is callable ## nested.a.items is defined
numbers[0] ## numbers[-1] ## numbers[9] ## numbers[9] is defined ## numbers[1:] ## numbers[:-1] ## numbers[::-1] ## numbers[::2] ## numbers[-2:] ## numbers[5:] ## name[0] ## name[1] ## name[-1] ## name[1:3] ## name[::-1] ## name[9] ## name[9:] ## (1, 2, 3)[1:] ## numbers['0'] ## numbers.0 ## 'abc'[1:][0] ## numbers[true] ## numbers[none:2] ## nested[0] ## numbers[1.0] ## range(5)[2] ## numbers[::-2] ## 'abcdef'[4:1:-1]
text.strip() ## text.lstrip() ## text.rstrip() ## 'xxaxx'.strip('x') ## 'abc'.strip('ca') ## text.split() ## text.split(' ') ## text.split(maxsplit=1) ## text.split(none, 2) ## 'a,b,,c'.split(',') ## 'a,b,c'.split(',', 1) ## 'a,b,c'.rsplit(',', 1) ## text.rsplit(maxsplit=1) ## text.rsplit() ## 'a b c'.rsplit(none, 1) ## ''.split() ## ''.split(',') ## 'a'.split('') ## lines.splitlines() ## lines.splitlines(true) ## lines.split('\n')
'a-b-c'.partition('-') ## 'a-b-c'.rpartition('-') ## 'abc'.partition('-') ## 'abc'.rpartition('-') ## think.split('</think>')[-1].lstrip('\n') ## think.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n')
name.upper() ## name.lower() ## 'hello world'.title() ## "it's a dog's".title() ## 'hello WORLD'.capitalize() ## 'Hello'.swapcase() ## 'Straße'.casefold() ## 'straße'.upper() ## 'ΑΣ'.lower() ## 'abc'.center(8) ## 'abc'.center(8, '*') ## 'ab'.center(5) ## 'ab'.center(7, '-') ## 'abc'.ljust(6) ~ '|' ## 'abc'.rjust(6, '.') ## '42'.zfill(5) ## '-42'.zfill(5) ## '+1'.zfill(4) ## 'x'.zfill(0)
name.find('r') ## name.find('x') ## 'abcabc'.rfind('b') ## 'abc'.index('c') ## 'abc'.index('x') ## 'abc'.rindex('a') ## 'banana'.count('an') ## 'banana'.count('a', 2) ## 'banana'.find('a', 2, 4) ## 'aaa'.count('') ## 'abc'.startswith('a') ## 'abc'.startswith(('x', 'a')) ## 'abc'.endswith('bc') ## 'abc'.startswith('b', 1) ## 'abc'.endswith(('x', 'y')) ## 'abc'.startswith('')
'abc'.replace('b', 'xx') ## 'aaa'.replace('a', 'b', 2) ## 'abc'.replace('', '-') ## 'abc'.removeprefix('a') ## 'abc'.removesuffix('bc') ## 'abc'.removeprefix('x') ## '-'.join(['a', 'b']) ## ''.join(words) ## ','.join('abc') ## ','.join([1]) ## 'a\tb'.expandtabs(4) ## 'abc'.isalpha() ## 'ab1'.isalnum() ## '12'.isdigit() ## '1.2'.isdigit() ## ''.isdigit() ## ' '.isspace() ## 'abc'.islower() ## 'aBC'.isupper() ## 'A1'.isupper() ## 'Ab Cd'.istitle() ## '1'.isnumeric() ## 'a_1'.isidentifier() ## 'é'.isascii()
'%s' % 'x' ## '%s and %s' % ('a', 1) ## '%d' % 3.7 ## '%5d|%-5d|%05d' % (1, 2, 3) ## '%.2f' % pi ## '%8.3f' % pi ## '%e' % 12345.678 ## '%g' % 0.00001 ## '%g' % 100000.0 ## '%g' % 1234567.0 ## '%x' % 255 ## '%#x' % 255 ## '%o' % 8 ## '%%' % () ## '%s' % none ## '%s' % ([1],) ## '%s' % [1, 'a'] ## '%(a)s-%(b)d' % {'a': 'x', 'b': 2} ## '%r' % 'x' ## '%s' ## '%s %s' % 'a' ## '%s' % (1, 2) ## '%d' % 'x' ## '%+d' % 3 ## '%c' % 'a' ## '%5s|%-5s|' % ('a', 'b') ## '%.2s' % 'abc' ## '%s' % true ## '%*d' % (5, 1)
'{}'.format(1) ## '{} {}'.format('a', 'b') ## '{1} {0}'.format('a', 'b') ## '{x}'.format(x=2) ## '{:>5}|{:<5}|{:^5}'.format('a', 'b', 'c') ## '{:05d}'.format(42) ## '{:,}'.format(1234567) ## '{:.2f}'.format(pi) ## '{:.1%}'.format(half) ## '{!r}'.format('a') ## '{{}}'.format() ## '{0.x}'.format(nested) ## '{0[a]}'.format({'a': 1}) ## '{:x}'.format(255) ## '{:e}'.format(12345.678) ## '{:g}'.format(0.1) ## '{:+}'.format(3) ## '{:*^9}'.format('mid') ## '{}'.format(none) ## '{:>5}'.format(true) ## '{}' .format() ## '{:_}'.format(1234567) ## '{:10.3f}|'.format(pi) ## '{:<8}|'.format(1.5) ## '{a[0]}'.format(a=[7])
name|upper ## name|lower ## text|title ## 'source_url'|title ## 'foo bar-baz (qux) [a] {b} <c> d.e f:g'|title ## "it's"|title ## 'hELLO wORLD'|capitalize ## text|trim ## 'xxaxx'|trim('x') ## text|wordcount ## text|length ## name|length ## 'abc'|reverse ## numbers|reverse|list ## words|reverse|join ## 'abc'|center(9) ## ('abc'|center)|length ## 'abc'|list ## name|list
html|escape ## html|e ## html|safe ## tags|striptags ## html|forceescape ## 'a b/c?d=é&'|urlencode ## {'a b': 1, 'c': 'd/e'}|urlencode ## pairs|urlencode ## 'a\nb\n\nc'|indent ## 'a\nb'|indent(2) ## 'a\nb'|indent(2, true) ## 'a\n\nb'|indent(2, blank=true) ## 'a\nb'|indent('> ') ## 'a\nb'|indent(width=1, first=true) ## 'The quick brown fox jumps'|truncate(12) ## 'The quick brown fox jumps'|truncate(12, true) ## 'The quick brown fox jumps'|truncate(12, false, '…') ## 'short'|truncate(3) ## 'The quick brown fox'|truncate(9, leeway=0) ## 'a.b.c'|replace('.', '-') ## 'aaa'|replace('a', 'b', 2) ## 123|replace('2', 'x') ## 1536|filesizeformat ## 1536|filesizeformat(true) ## 1|filesizeformat ## 999|filesizeformat ## 10000000|filesizeformat
'%s-%s'|format('a', 1) ## '%(x)s'|format(x=3) ## 12|string ## none|string ## [1, 'a']|string ## missing|string ## missing|upper ## missing|trim ## missing|length ## missing|list ## missing|join ## missing|first ## missing|default('d') ## missing|d('d') ## ''|default('d') ## ''|default('d', true) ## none|default('d') ## none|default('d', true) ## missing|default ## nested.q|default('w') ## 0|default(5, true) ## missing|int ## missing|tojson ## missing|abs ## missing|sort ## missing|items|list
'42'|int ## '4.7'|int ## 'x'|int ## 'x'|int(5) ## 'x'|int(default=-1) ## '0x1f'|int(base=16) ## '1f'|int(0, 16) ## ' 7 '|int ## '1_000'|int ## none|int ## none|int(3) ## true|int ## 3.99|int ## -3.99|int ## '-5'|int ## ''|int ## '1e3'|int ## 'inf'|int ## '3.5'|float ## 'x'|float ## 'x'|float(1.5) ## 5|float ## true|float ## none|float ## '1e3'|float ## [1]|int ## [1]|float
2.5|round ## 3.5|round ## 2.567|round(2) ## 2.5|round(0, 'ceil') ## 2.5|round(method='floor') ## 42|round ## 42|round(1) ## 1234|round(-2) ## 1250|round(-2) ## -2.5|round ## 0.125|round(2) ## 2.675|round(2) ## 1e20|round ## 42|round(0, 'ceil') ## 2.34|round(1, 'ceil') ## 'x'|round ## 2.5|round|int ## -0.4|round ## 1234.5|round(-2)
-5|abs ## 5.5|abs ## 'x'|abs ## numbers|sum ## [1, 2.5]|sum ## []|sum ## numbers|sum(start=10) ## people|sum(attribute='age') ## ['a']|sum ## numbers|max ## numbers|min ## words|max ## words|min ## []|max ## ['a', 'B']|max ## ['a', 'B']|max(case_sensitive=true) ## people|max(attribute='age') ## people|min(attribute='name') ## [1, 'a']|max
numbers|first ## numbers|last ## name|first ## name|last ## []|first ## nested|first ## nested|last ## (x for x) ## numbers|sort ## numbers|sort(reverse=true) ## words|sort ## words|sort(case_sensitive=true) ## people|sort(attribute='age')|map(attribute='name')|join(',') ## people|sort(attribute='city,name')|map(attribute='name')|list ## [1, 'a']|sort ## 'hello'|sort ## {'b': 1, 'a': 2}|sort ## [true, 0, 2]|sort ## [[2], [1, 5], [1]]|sort ## words|unique|list ## words|unique(case_sensitive=true)|join ## people|unique(attribute='city')|map(attribute='name')|list ## ['a', 'A', 'b']|unique|list ## [1, 1.0, true]|unique|list
numbers|join ## numbers|join(', ') ## people|join(', ', attribute='name') ## [none, true, 1.5]|join('|') ## 'abc'|join('-') ## nested|join(',') ## numbers|list ## nested|list ## range(3)|list ## range(3) ## range(1, 7, 2)|list ## range(5, 0, -2)|list ## range(0) ## range(1, 3) ## range(0, 10, 5) ## range(3)|join ## range(200000) ## numbers|length ## nested|length ## numbers|count ## 5|length ## none|length
numbers|map('string')|join('-') ## words|map('upper')|list ## people|map(attribute='name')|list ## people|map(attribute='nope')|list ## people|map(attribute='nope', default='?')|list ## people|map(attribute='tags.0', default='-')|join(',') ## pairs|map(attribute=0)|list ## pairs|map('first')|list ## words|map('replace', 'a', 'x')|list ## numbers|map('nope')|list ## people|map('length')|list ## [1.26, 2.34]|map('round', 1)|list
numbers|select('odd')|list ## numbers|select('gt', 1)|list ## numbers|reject('even')|list ## mixed|select|list ## mixed|select('string')|list ## mixed|reject('none')|list ## people|selectattr('city', 'equalto', 'Rome')|map(attribute='name')|list ## people|selectattr('tags')|map(attribute='name')|list ## people|selectattr('tags', 'defined')|map(attribute='name')|list ## people|rejectattr('city', 'eq', 'Rome')|list ## people|selectattr('age', 'gt', 30)|list|length ## people|selectattr('age', '>=', 35)|map(attribute='age')|list ## words|select('in', ['a', 'C'])|list ## people|selectattr('nope', 'undefined')|list|length ## numbers|select('nope')|list ## people|rejectattr('tags')|map(attribute='name')|join
nested|dictsort ## {'b': 1, 'A': 2}|dictsort ## {'b': 1, 'A': 2}|dictsort(true) ## {'b': 1, 'a': 2}|dictsort(by='value') ## {'b': 1, 'a': 2}|dictsort(reverse=true) ## nested|items|list ## call.function.arguments|items|list ## [1]|items|list ## people|groupby('city') ## people|groupby('city')|map(attribute='grouper')|list ## people|groupby('nope')|length ## people|groupby('nope', default='x')|map(attribute='0')|list ## numbers|batch(2)|list ## numbers|batch(2, 'x')|list ## numbers|slice(2)|list ## numbers|slice(2, 'x')|list ## [1, 2, 3, 4, 5]|slice(3)|list ## numbers|attr('nope') ## nested|attr('z') ## numbers|batch(2)|map('join')|list
nested|tojson ## mixed|tojson ## quotes|tojson ## call|tojson(indent=2) ## call|tojson(indent=4) ## numbers|tojson(indent=0) ## {}|tojson(indent=2) ## []|tojson(indent=2) ## [[], {}]|tojson(indent=2) ## call|tojson(ensure_ascii=true) ## '🌅'|tojson(ensure_ascii=true) ## call|tojson(separators=(',', ':')) ## nested|tojson(sort_keys=true) ## (1, 2)|tojson ## 'é<>&\''|tojson ## 1.0|tojson ## 1e16|tojson ## true|tojson ## none|tojson ## {1: 2, none: 3, true: 4}|tojson ## {(1, 2): 3}|tojson ## numbers|map('string')|tojson ## {'a': missing}|tojson ## call|tojson(false, 2) ## schema|tojson ## '\x7f\u2028'|tojson ## numbers|tojson(indent='--') ## 0.1|tojson ## big|tojson
'ab' is sequence ## [1] is sequence ## (1,) is sequence ## {} is sequence ## 1 is sequence ## none is sequence ## missing is sequence ## range(3) is sequence ## (numbers|map('string')) is sequence ## 'ab' is iterable ## 5 is iterable ## none is iterable ## {} is iterable ## (numbers|map('string')) is iterable ## missing is iterable ## {} is mapping ## [] is mapping ## 'a' is string ## 1 is string ## none is string ## 1 is number ## true is number ## 1.5 is number ## '1' is number ## 1 is integer ## true is integer ## 1.0 is integer ## 1.0 is float ## true is boolean ## 0 is boolean ## true is true ## 1 is true ## false is false ## 0 is false ## none is none ## missing is none ## missing is defined ## nothing is defined ## nested.q is undefined ## nested.items is defined
range is callable ## 'a' is callable ## missing is callable ## name.upper is callable ## 3 is odd ## 4 is even ## 9 is divisibleby 3 ## 9 is divisibleby(2) ## 'abc' is lower ## 'ABC' is upper ## '1' is lower ## 1 is eq 1 ## 1 is equalto(1.0) ## 1 is ne 2 ## 3 is gt 2 ## 3 is ge(3) ## 2 is lt 3 ## 2 is le 1 ## 'a' is in 'abc' ## 1 is in [1] ## 'a' is not in ['b'] ## none is sameas none ## true is sameas 1 ## 'upper' is filter ## 'nope' is filter ## 'odd' is test ## 'nope' is test ## 'a'|e is escaped ## 'a' is escaped ## 1 is nope ## not missing is defined ## missing is not defined ## 1 is not none and 2 is odd ## 'x' is defined and not zero is odd
dict(a=1, b='x') ## dict(pairs) ## dict({'a': 1}, b=2) ## dict.fromkeys(['a', 'b'], 0) ## namespace(a=1).a ## cycler('a', 'b').next() ## cycler('a', 'b').current ## joiner() is callable ## lipsum ## raise_exception('Stop: ' ~ name) ## strftime_now('%%') ## strftime_now is callable ## numbers.append(4) ## nested.update({}) ## nested.pop('a') ## numbers.count(1) ## numbers.index(2) ## numbers.index(9) ## numbers.copy() ## nested.copy() == nested ## name.__class__ ## nested.__len__ ## nested._x ## numbers.nope ## numbers.nope() ## nope() ## name() ## zero.x ## nothing.x ## true.real is defined
html|e + '<i>' ## html|e ~ '<i>' ## (html|safe)|upper ## html|e|e ## 'a'|nope ## 'abc'|pprint ## numbers|random ## 'a b'|wordwrap(1) ## {'a': 1}|xmlattr ## numbers|map('string') ## name.upper ## range ## 'é'|encode ## 'é'.encode() ## +1 ## 1, 2 ## [1, 2,] ## {'a': 1,} ## {'a': {'b': {}}} ## {'a': 1}.a ## [1, 2][0] ## 'a'.upper().lower() ## ('a' ~ 'b').upper() ## (1).bit_length() ## 2.0.is_integer() ## [*numbers] ## range(*[1, 4])|list ## dict(**{'a': 1}) ## numbers|join(**{'d': '+'})
"a\u00e9b" ## 'a' ~ 1.0 ~ none ## 1 if none else 2.0 ## [1,2,3]|sum / 2 ## (1,2)|sum ## 'abc'|batch(2)|list ## {'a':1,'b':2}|length ## {'a':1}|list ## nested|join ## (1,2)|join('-') ## [3,1]|sort|last
'a,b;c'.replace(',', ';').split(';') ## name.encode is defined ## 'A-B'|lower|replace('-', '_') ## "x".join(['a','b'])|upper ## 'abc'[::-1] ## 'abc'[-2:] ## 'abc'[:100] ## 'abc'[1] ## ''[0] ## ''[0] is defined ## '%s' % 'a' ~ 'b' ## '%s%%' % 5 ## '%3d%%' % 50 ## '%.3s|' % 'abcdef' ## '%-10s|' % 'é' ## '%i' % 5 ## '%i' % true ## '%f' % 1 ## '%s' % 1.0 ## '%s' % {'a': 1} ## '%(a)s' % {'a': none} ## '%s' % missing ## '%d' % missing ## '%r' % 'it\'s' ## '%r' % 1.5 ## '%5.1f' % 2.25 ## '%5.1f' % 2.35 ## '%G' % 1e-10 ## '%E' % 1.5 ## '%X' % 255 ## '% d' % 5 ## '%+.1f' % 2.0 ## '%.0f' % 2.5 ## '%.0f' % 3.5 ## '%g' % 1.0 ## '%g' % 123456789.0 ## '%g' % 0.0001234 ## '%.3g' % 1234.5 ## '%a' % 'x' ## '%05.1f' % -2.5 ## '%s %(a)s' % {'a': 1}
'{:d}'.format(3.0) ## '{:s}'.format(3) ## '{:5}'.format('ab') ~ '|' ## '{:5}'.format(3) ~ '|' ## '{:<5}'.format(3) ~ '|' ## '{:^+7.2f}'.format(3.14159) ## '{:#x}'.format(255) ## '{:#b}'.format(5) ## '{:08.3f}'.format(3.14159) ## '{:,.2f}'.format(1234567.891) ## '{:%}'.format(0.5) ## '{:.3}'.format(3.14159) ## '{:.3}'.format('abcdef') ## '{:c}'.format(65) ## '{:n}'.format(5) ## '{0}{0}'.format('a') ## '{} {0}'.format(1) ## '{x} {y}'.format(**{'x': 1, 'y': 2}) ## '{a.b}'.format(a={'b': 1}) ## '{'.format() ## '}'.format() ## '{}'.format([1,'a']) ## '{!s:>5}'.format(none) ## '{:>{}}'.format('a', 5) ## '{:G}'.format(1e20) ## '{}'.format(1e20) ## '{:.0f}'.format(0.5) ## '{:.2e}'.format(0) ## '{:08,}'.format(1234) ## '{:=+8}'.format(5) ## '{:}'.format('x') ## '{:x<4}'.format('é') ## '{:.10}'.format(1.5) ## '{:g}'.format(1e6) ## '{:}'.format(1.0) ## '{:6}'.format(1.0) ## '{:,}'.format(1234.5) ## '{:.1f}'.format(0.25) ## '{:.1f}'.format(0.35)
1.0|int ## 1e3|int ## '12abc'|int ## '1.5e3'|int ## '  12  '|int ## '--5'|int ## '+5'|int ## '٣'|int ## '1__0'|int ## '0b11'|int(0, 2) ## '0x1F'|int(0, 16) ## 'z'|int(0, 36) ## '077'|int(0, 8) ## '10'|int(base=2) ## 5|int(base=2) ## 'nan'|int ## 'nan'|float ## '-inf'|float ## '.5'|float ## '5.'|float ## '1_0.0'|float ## 123456789012345678 * 10 ## 2 ** 100 ## 2 ** 63 ## -2 ** 63 ## 10 ** 30 ## 0.1 * 3 ## 1e22 ## 1e21 + 1 ## 123456789.123456789 ## 5e-324 ## 1.7976931348623157e308 ## 1e100 ## 0.00001 ## 1e-4 ## 100000000000000000000.0 ## 3 // 0.5 ## 1e308 * 10 ## 0.0 ## -0.0 ## 0 * -1 ## 0.0 * -1 ## 7 // -2.0 ## -7 % 3.5 ## 5 % -0.3 ## 6 // 0.1
2.345|round(2) ## 2.355|round(2) ## 1.005|round(2) ## 0.5|round ## 1.5|round ## -1.5|round ## -2.5|round|int ## 15|round(-1) ## 25|round(-1) ## -15|round(-1) ## 1.25|round(1) ## 1e300|round(2) ## 2.675|round(2,'floor') ## 2.671|round(2,'ceil') ## 42|round(-1, 'ceil') ## 3.7|round(0, 'floor') ## 3|round(2, 'floor') ## true|round ## 2.5|round(precision=1) ## '2.5'|round ## 2.5|round(1.0) ## 2.5|round(method='nope') ## 123.456|round(-1) ## 155.0|round(-1)
'hello-world foo_bar'|title ## 'ÉCOLE élan'|title ## 'a.b c/d'|title ## 'ßa'|capitalize ## 'ßa'.title() ## 'ßa'|title ## 'ǆ'.capitalize() ## 'ŉa'.capitalize() ## "they're bill's".title() ## '3rd place'.title() ## '3rd place'|title ## 'İ'.lower() ## 'ΌΣΟΣ'.lower() ## 'ﬁ'.upper() ## 'ﬁ'.title() ## 'Ab1cD'.swapcase() ## 'ﬁx'.swapcase() ## 'ß'.swapcase() ## 'ı'.upper() ## 'K'.lower() ## 'ß'.isupper() ## 'ª'.islower() ## 'Ⅷ'.isupper() ## '½'.isnumeric() ## '½'.isdigit() ## '²'.isdigit() ## '²'.isdecimal() ## '٣'.isdigit() ## '٣'.isdecimal() ## '一'.isnumeric() ## '一'.isalpha() ## 'ー'.isalpha() ## 'a\u0301'.isalpha() ## 'Ⅷ'.isalpha() ## '①'.isalnum() ## '\u200b'.isspace() ## '\x1f'.isspace() ## '\u3000'.isspace() ## '\xa0x\xa0'.strip() ## '\x1fx'.strip() ## 'a\x1cb'.split() ## 'a\u2028b'.splitlines() ## 'a\x0bb\x0cc'.splitlines() ## 'a\r\nb\rc\n'.splitlines() ## ''.splitlines() ## '\n'.splitlines() ## 'a_b'.isidentifier() ## 'é1'.isidentifier() ## '\n'.isprintable() ## ''.isprintable() ## 'a"b'.isprintable() ## ''.isalpha() ## ''.islower() ## ''.isspace() ## ''.isascii() ## 'ẞ'.casefold() ## 'ﬁ'.casefold() ## 'ΣΑΣ'.casefold()
' a  b '.split(' ') ## ' a  b '.rsplit() ## ' a  b c '.split(none, 1) ## ' a  b c '.rsplit(none, 1) ## ' a b '.split(maxsplit=0) ## ' a b '.rsplit(maxsplit=0) ## 'a--b--c'.split('--', maxsplit=1) ## 'a--b--c'.rsplit('--', 1) ## 'aXbXc'.split('X', -1) ## 'aaaa'.split('aa') ## 'aaaa'.count('aa') ## 'aaa'.rsplit('aa') ## 'aaaaa'.rsplit('aa', 1) ## 'abcabc'.find('') ## 'abc'.rfind('') ## 'abc'.find('', 3) ## 'abc'.find('', 4) ## 'abc'.find('c', -1) ## 'abc'.find('a', -2) ## 'abc'.count('', 1) ## 'abc'.index('b', 1, 2) ## 'abc'.startswith('', 3) ## 'abc'.startswith('', 4) ## 'abc'.endswith('', 4) ## 'abc'.endswith('ab', 0, 2) ## 'abc'.startswith(['a']) ## 'abc'.replace('b', '', 0) ## 'aaa'.replace('a', 'b', -1) ## 'ab'.replace('', '-', 2) ## 'abc'.replace(1, 2) ## 'abc'|replace('b', 1) ## 'abc'.strip(none) ## 'abc'.strip(1) ## 'abc'.center(4) ## 'abc'.center(6) ## 'ab'.center(5, '*') ## 'abcd'.center(7, '*') ## 'ab'.center(3, '*') ## 'a'.center(4, '*') ## 'a'.ljust(3, 'xy') ## '--1'.zfill(5) ## 'ab'.zfill(-1) ## '\t|a\tb\n\tc'.expandtabs() ## 'abc'.expandtabs(0) ## '-'.join({'a': 1}) ## '-'.join('a') ## '-'.join(numbers) ## '-'.join([]) ## '-'.join(['a'], 'x') ## 'a'.nope() ## 'abc'.upper('x') ## 'a'.isalpha(1)
[1,2] in [[1,2]] ## 'a' in ['a'] and 'b' ## {'a':1} in [{'a':1}] ## [] in {} ## 'k' in {'k': none} ## 1 in {1: 2} ## true in {1: 2} ## 1.0 in {1: 2} ## 'x' in ('x') ## 'x' in ('x',) ## 3 in range(5) ## 'b' in nested.a ## 'q' not in nested and 'a' in nested ## 'a' in nested.keys() ## ('a', 1) in {'a': 1}.items() ## 1 in {'a': 1}.values() ## {'a':1}.items()|list == [('a',1)] ## {'a':1}.keys() == {'a':2}.keys() ## {'a':1}.items() ## {'a':1}.keys() ## {'a':1}.values() ## {'a':1}.items()|length ## {'a':1}.items()[0] ## {'a':1}.keys()|list|tojson ## {'a':1}.keys()|tojson ## {'a':1}.items() is sequence ## {'a':1}.items() is iterable ## {'a':1}.items() is mapping ## {'a':1}.items()|sort ## {'a':1}.items()|first ## {'a':1}.items()|last ## {'b':1,'a':2}.values()|sum ## {'b':1,'a':2}.values()|max ## {'b':1,'a':2}|max ## {'a': 1}|first ## {'a': 1, 'a': 2} ## {1: 'a', 1.0: 'b', true: 'c'} ## {[1]: 2} ## {'a': 1}['b'] ## {'a': 1}.a.b ## {'a': 1}.a.b is defined ## {'a': {}}.a.b.c is defined ## nested.a['b'][1]['c'][0] ## nested['a'].b|length ## {'a b': 1}['a b'] ## {'a': 1}.get('a', 2) + 1 ## {'a': none}.get('a', 2) ## {'a': 1}.get(['x']) ## {'a':1}|tojson|length
missing == '' ## missing < 1 ## missing + 1 ## missing ~ 1 ## -missing ## missing[0] ## missing() ## missing|string ## missing|lower ## missing|title ## missing|replace('a','b') ## missing|float ## missing|round ## missing|max ## missing|sum ## missing|unique|list ## missing|map('upper')|list ## missing|selectattr('x')|list ## missing|groupby('x') ## missing|reverse|list ## missing|last ## missing|wordcount ## missing|capitalize ## missing|indent ## missing|truncate ## missing|escape ## missing|center(3) ## missing|urlencode ## missing|striptags ## missing|dictsort ## missing|batch(2)|list ## missing|attr('x') ## missing|format ## missing is string ## missing is lower ## missing is number ## missing is mapping ## missing is eq missing ## missing is in [1] ## missing is odd ## missing is sameas none ## not missing ## missing and 1 ## missing or none ## [missing, 1]|join(',') ## [missing]|tojson ## {'a': missing} ## missing if missing else 'x' ## missing is none or missing is undefined ## none|upper ## none|trim ## none|list ## none|join ## none|first ## none|string|length ## none|tojson ## none|default('x') ## none|replace('N', 'n') ## none + 'a' ## none ~ 'a' ## none == 0 ## none < 1 ## none is mapping ## none is string ## none in [none] ## none[0] ## none.x.y ## 1|upper ## 1|trim ## 1|title ## 1|list ## 1|join ## 1|reverse ## 1|replace(1, 2) ## [1]|upper ## true|lower ## true|string ## 1.5|string ## [1,2]|string|length ## 12345|length ## 1|first ## 1|tojson ## true|upper ## [1,'a']|lower ## {'A':1}|lower ## 1|capitalize ## 1|wordcount ## 1|truncate ## 1|indent ## 1|center(3) ## 1|escape ## 1|urlencode ## 1|striptags ## 1|format
[1,2,3]|slice(2)|list|length ## range(10)|batch(3)|map('list')|list ## range(10)|batch(3)|map('sum')|list ## [[1,2],[3]]|map('length')|list ## [[1,2],[3]]|sum(start=[]) ## ['a','b']|map('upper')|join ## ['b','a']|sort|join ## [3,1,2]|sort(reverse=True)|join ## ['b','A','c']|sort ## [none, 1]|sort ## ['10','9']|sort ## ['10','9']|map('int')|sort ## [1,2,3,4]|select('divisibleby', 2)|list ## [0,1,'',none,'a']|select|list ## [0,1,'',none,'a']|reject|list ## people|map(attribute='age')|max ## people|map('attr', 'name')|list ## people|map(attribute='name')|map('lower')|sort|join(' ') ## people|selectattr('age','lt',40)|map(attribute='name')|join(', ') ## people|selectattr('name','in',['Bob'])|list|length ## people|rejectattr('age','odd')|list ## people|sort(attribute='age', reverse=true)|map(attribute='age')|list ## people|sum(attribute='age') / people|length ## people|groupby('city')|map('first')|list ## people|groupby('city')|map('last')|map('length')|list ## people|groupby(attribute='age')|length ## people|unique(attribute='city')|list|length ## words|unique|sort|join ## words|map('length')|sum ## words|join|length ## words|first|upper ## words|last ~ 'x' ## words|min ~ words|max ## [[1,'b'],[1,'a']]|sort ## [{'a':1},{'a':0}]|sort ## [{'a':{'b':2}},{'a':{'b':1}}]|sort(attribute='a.b')|map(attribute='a.b')|list ## [(1,2),(0,5)]|sort(attribute=1) ## [(1,2),(0,5)]|map(attribute='1')|list ## [(1,2),(0,5)]|map('last')|list ## 'cab'|sort|join ## 'cab'|unique|join ## 'hello'|first|upper ## 'a b'|map('upper')|join ## 'abc'|select('in', 'ac')|join ## 'abc'|max ## ''|max ## ''|first ## ''|last is defined ## [1,2,3]|first + 1 ## [1,[2,[3]]]|string ## [1,2]|list == [1,2] ## (1,2)|list ## (3,1)|sort ## (1,2)|reverse|list ## {'a':1}|reverse|list ## 'abc'|reverse|upper ## [1,2]|reverse|first ## range(3)|reverse|list ## range(3)|sum ## range(3)|last ## range(3)|map('string')|list ## range(1,4)|join(',') ## range(3) == range(0,3) ## range(-3)|list ## range(3,0)|list ## range(1.5) ## range() ## range(0,5,0) ## range(3)[-1] ## range(3)[5] ## range(10)[2:5]|list ## range(3)|tojson ## 2 in range(3) ## range(3)|length
'a\nb'|indent(2, False) ## 'a\n\nb\n'|indent ## ''|indent ## ''|indent(first=true) ## '\na'|indent ## 'a'|indent(-1) ## 'a\r\nb'|indent(1) ## 'hello world foo'|truncate(8) ## 'hello world foo'|truncate(5, true, '') ## 'hello world'|truncate(11) ## 'hello world'|truncate(5, false, '...', 0) ## 'helloworldfoo bar'|truncate(8) ## 'x'|truncate(2) ## 'a  b'|wordcount ## "don't stop-it x_y"|wordcount ## 'é à'|wordcount ## 'a b'|urlencode ## 'a/b'|urlencode ## 'ü&='|urlencode ## {'q': 'a b', 'r': none}|urlencode ## [('a', 1)]|urlencode ## '<a href="x">y</a>'|striptags ## 'a < b > c'|striptags ## '&amp;&lt;&nbsp;&copy;'|striptags ## '&#65;&#x42;'|striptags ## 'a&b'|striptags ## '<a>'|e|length ## '<a>'|e|upper ## '<a>'|e|replace('&', '+') ## '<a>'|e ~ '<b>' ## ['<a>'|e, '<b>']|join ## '<a>'|e == '&lt;a&gt;' ## '<a>'|e|string ## '<a>'|e|list ## '<a>'|e|tojson ## '<a>'|e in ['&lt;a&gt;'] ## ['<a>'|e] ## '<a>'|safe|e ## '<a>'|forceescape|forceescape ## none|e ## 1000|filesizeformat ## 1024|filesizeformat(true) ## 1500000|filesizeformat ## 0|filesizeformat ## 1.5|filesizeformat ## 'x'|filesizeformat ## '123'|filesizeformat
{'b': {'d': 1, 'c': 2}, 'a': [1, {'z': 1, 'y': 2}]}|tojson(sort_keys=true) ## {'b': 1, 1: 2}|tojson(sort_keys=true) ## {'a': 1.0, 'b': 1e100, 'c': 1e-10, 'd': -0.0}|tojson ## {'a': (1, (2,))}|tojson ## [1, [], {}, [[]], '']|tojson(indent=1) ## {'é': 'ü', '"': '\\'}|tojson ## {'é': '🌅\u0001'}|tojson(ensure_ascii=true) ## {'a': {'b': [1]}}|tojson(indent=2, separators=(',', ':')) ## [1,2]|tojson(separators=(', ', ': ')) ## [1,2]|tojson(separators=[';', '=']) ## {'a': 1}|tojson(indent=none) ## {'a': 1}|tojson(indent='\t') ## {'a': 1}|tojson(nope=1) ## {1.5: 1, false: 2}|tojson ## 'a\u2028\u2029'|tojson ## '</script>'|tojson ## "it's"|tojson ## numbers|select('odd')|tojson ## range|tojson ## namespace(a=1)|tojson ## {'a': 1}|tojson|tojson ## {'a': 1}|tojson is string ## [true, none]|tojson ~ '' ## {'a': 1}|tojson(2) ## {'a': 1}|tojson(indent=true)
1 is number and 'a' is string ## 'a' is string == true ## not 'a' is string ## 1 is not string ## 'a' is not number ## 1 is odd or 1 is even ## 4 is divisibleby(2) and true ## 'a' is in(['a']) ## [1] is not mapping ## 1 is eq(1) and 2 is eq 2 ## 'a' is eq 'a' ## 5 is gt(3) ## 5 is greaterthan 3 ## 5 is lessthan 3 ## 'x' is sameas 'x' ## 1 is sameas 1.0 ## none is sameas false ## 1.5 is odd ## 'a' is odd ## 2 is even ## 1.0 is number ## '1' is integer ## [] is iterable ## 1 is iterable ## namespace(a=1) is mapping ## namespace(a=1) is defined ## cycler(1) is iterable ## range(2) is mapping ## 'Ab' is lower ## 'ab1' is lower ## none is upper ## true is integer ## true is number ## 1 is boolean ## dict is callable ## namespace is callable ## 'x'.upper is callable ## {}.items is callable ## none is callable ## 1 is true ## 'true' is true ## html|e is string ## 'length' is filter ## 'tojson' is filter ## 'divisibleby' is test ## '' is test
dict(a=1).items()|list ## dict(a=1, **{'b': 2}) ## dict([['a', 1]]) ## dict(1) ## dict() ## dict('ab') ## dict(['ab']) ## namespace(a=1, b=[2]).b[0] ## namespace({'a': 1}).a ## namespace() ## namespace(a=1) ## namespace(a=1)['a'] ## namespace(a=1).b is defined ## namespace(_a=1) ## cycler() ## cycler(1,2).next() + 1 ## joiner()() ~ 'x' ## joiner('-')() is string ## strftime_now('%Y')|length ## strftime_now('%Y-%m-%d')|length ## strftime_now() ## strftime_now('%') ## raise_exception() ## raise_exception(1) ## super() ## self ## self.x ## loop ## loop.index ## caller ## caller() ## varargs ## true() ## 'a'() ## range(3)() ## [1][0]() ## nested.get.x ## nested.get() ## name.format.x ## range.x ## dict.x ## lipsum is callable ## debug() ## config ## request ## cycler.__init__ ## ''.__class__.__mro__ ## [].__class__ ## ().__class__.__bases__[0] ## name.__class__.__name__ ## nested.__class__ ## {}.__class__ is defined ## numbers.__len__() ## 'a'.__add__('b') ## numbers.sort() ## numbers.clear ## nested.clear is defined ## numbers.append is callable ## numbers.extend([1]) ## 'a'.maketrans('a', 'b') ## 'abc'.translate({97: 'b'})
"""

TEMPLATES = [
    "{% for a, b in pairs %}{{ a }}={{ b }};{% endfor %}",
    "{% for k, v in nested.items() %}{{ loop.index }}/{{ loop.length }} {{ k }} {{ loop.first }} {{ loop.last }} {{ loop.revindex0 }}\n{% endfor %}",
    "{% for k in nested %}{{ k }},{% else %}none{% endfor %}{% for k in [] %}x{% else %}none{% endfor %}",
    "{% for p in people if p.city == 'Rome' %}{{ loop.index0 }}{{ p.name }}{{ loop.previtem.name }}{{ loop.nextitem.name }}|{% endfor %}",
    "{% for n in numbers %}{% if n == 1 %}{% continue %}{% endif %}{{ n }}{% if loop.last %}.{% endif %}{% endfor %}",
    "{% for n in numbers %}{% if n == 1 %}{% break %}{% endif %}{{ n }}{% else %}never{% endfor %}",
    "{% for n in numbers %}{{ loop.cycle('odd', 'even') }}{{ loop.changed(n > 2) }} {% endfor %}",
    "{% for t in tree recursive %}{{ t.n }}@{{ loop.depth }}{% if t.c %}({{ loop(t.c) }}){% endif %}{% endfor %}",
    "{% for c in name %}[{{ c }}]{% endfor %}{% for x in nothing %}{% endfor %}",
    "{% for x in missing %}x{% else %}empty{% endfor %}{% for x in 5 %}x{% endfor %}",
    "{% for x in missing %}x{% else %}empty{% endfor %}",
    "{% for a, b in numbers %}{% endfor %}",
    "{% for a, b, c in [(1, 2)] %}{% endfor %}",
    "{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for g in people|groupby('city') %}{{ g.grouper }}:{{ g.list|map(attribute='name')|join('+') }} {% endfor %}",
    "{% for city, all in people|groupby('city') %}{{ city }}{{ all|length }}{% endfor %}",
    "{% set x = 1 %}{% for n in numbers %}{% set x = x + n %}{{ x }},{% endfor %}{{ x }}",
    "{% set ns = namespace(x=1, seen=[]) %}{% for n in numbers %}{% set ns.x = ns.x + n %}{% set ns.seen = ns.seen + [n] %}{% endfor %}{{ ns.x }}{{ ns.seen }}",
    "{% set ns = namespace() %}{% set ns.a = 1 %}{{ ns.a }}{{ ns.b }}{{ ns.b is defined }}",
    "{% set ns = namespace() %}{% set ns._a = 1 %}",
    "{% set d = {'a': 1} %}{% set d.a = 2 %}{{ d }}",
    "{% set a, b = (1, 2) %}{{ a }}{{ b }}{% set c = 1, 2 %}{{ c }}{% set d, e = 'x', [3] %}{{ d }}{{ e }}",
    "{% set x %}  a {{ name }} b  {% endset %}[{{ x }}]{% set y | trim | upper %}  c  {% endset %}[{{ y }}]",
    "{% if x is not defined %}{% set x = 5 %}{% endif %}{{ x }}{% if zero %}a{% elif one %}b{% else %}c{% endif %}",
    "{% with a = 1, b = 2 %}{{ a + b }}{% set c = 3 %}{{ c }}{% endwith %}{{ a }}{{ c }}",
    "{% set a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}",
    "{% filter upper %}abc {{ name }}{% endfilter %}{% filter trim|replace('b', 'x') %}  abc  {% endfilter %}|",
    "{% macro m(a, b=2, c=a) %}{{ a }}-{{ b }}-{{ c }};{% endmacro %}{{ m(1) }}{{ m(1, 5) }}{{ m(1, c=7) }}{{ m(b=1, a=0) }}{{ m() }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}",
    "{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, x=4) }}",
    "{% macro box(t) %}<{{ t }}>{{ caller('in') }}</{{ t }}>{% endmacro %}{% call(x) box('b') %}{{ x }}{{ name }}{% endcall %}",
    "{% macro plain() %}x{% endmacro %}{% call plain() %}y{% endcall %}",
    "{% macro twice() %}{{ caller() }}{{ caller() }}{% endmacro %}{% call twice() %}a{% endcall %}",
    "{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
    "{% macro late() %}{{ x }}{% endmacro %}{% set x = 1 %}{{ late() }}{% set x = 2 %}{{ late() }}",
    "{% macro m() %}{% set inner = 1 %}{{ inner }}{% endmacro %}{{ m() }}{{ inner is defined }}{{ m.name }}{{ m }}",
    "{% macro m() %}{{ loop is defined }}{% endmacro %}{% for x in [1] %}{{ m() }}{% endfor %}",
    "{% set m = 'shadow' %}{% for x in [1] %}{% macro m() %}in{% endmacro %}{{ m() }}{% endfor %}{{ m }}",
    "{% macro show(schema) %}{% for k, v in schema.items() %}{{ k }}:{% if v is mapping %}{ {{- show(v) -}} }{% else %}{{ v|tojson }}{% endif %},{% endfor %}{% endmacro %}{{ show(schema) }}",
    "{% set j = joiner(' | ') %}{% for n in numbers %}{{ j() }}{{ n }}{% endfor %}",
    "{% set c = cycler('a', 'b') %}{% for n in numbers %}{{ c.next() }}{% endfor %}{{ c.current }}{{ c.reset() }}{{ c.current }}",
    "{% set gen = numbers|map('string') %}{{ gen|join }}{{ gen|join }}.{{ gen is iterable }}",
    "{% set gen = numbers|select('odd') %}{{ gen|first }}{{ gen|list }}{{ 3 in gen }}",
    "{% set gen = words|map('upper') %}{% if gen %}{% for g in gen %}{{ g }}{{ loop.last }}{{ loop.length }} {% endfor %}{% endif %}",
    "{% for x in numbers|reverse %}{{ x }}{% endfor %}{% for x in 'abc'|reverse %}{{ x }}{% endfor %}",
    "{% for k, v in call.function.arguments|items %}{{ k }}={{ v }} {% endfor %}",
    "{% for k, v in nested|dictsort %}{{ k }},{% endfor %}",
    "{% for k, v in schema.properties.items() %}{{ k }}:{{ v.type }}:{{ v.get('items') }}:{{ v.default is defined }};{% endfor %}",
    "{{ schema.properties.items is mapping }}{{ schema.properties['items']['type'] }}{{ schema.properties.get('items').type }}",
    "  {% if yes %}\n  a\n  {% endif %}\nb\n",
    "a  {%- if yes -%}  b  {%- endif -%}  c\n\n",
    "{% if yes +%}\nx{% endif %}\ny\n  {%+ if yes %}z{% endif %}",
    "a {# comment #} b\n{# line #}\nc{#- both -#}  d",
    "  {{ name }}\n  {{- name }}\n{{ name -}}\n  x\n",
    "{% raw %}{{ not }} {% this %}{% endraw %}\n{{ '{{' }}{{ \"%}\" }}",
    "line\r\nnext\rlast\r\n{{ one }}\r\n",
    "{% set x = \"a\\nb\" %}{{ x }}{{ 'it''s' }}",
    "{{ {'a': {'b': 1}} }}{{ {'a': [1, {'c': 2}]}['a'][1]['c'] }}",
    "{%- generation %}\n x{{ name }}\n{% endgeneration %}\ny",
    "{% generation %}{% set inner = 1 %}{{ inner }}{% endgeneration %}{{ inner is defined }}",
    "{% do numbers.append(1) %}", "{% autoescape true %}{{ html }}{% endautoescape %}", "{% nope %}", "{{ 'a }}", "{% if yes %}", "{{ }}",
    "{% for i in range(3) %}{% for j in range(2) %}{{ i }}{{ j }}{{ loop.index }} {% endfor %}{{ loop.index }}{% endfor %}",
    "{% for n in numbers %}{% if loop.index > 1 %}, {% endif %}{{ n }}{% endfor %}{{ loop is defined }}",
    "{% for loop_item in [(1, 'a')] %}{{ loop_item }}{{ loop_item[1] }}{{ loop }}{% endfor %}",
    "{% set x = [] %}{% for n in numbers %}{% set x = x + [n * 2] %}{{ x }}{% endfor %}{{ x }}",
    "{% set messages = [{'role': 'user'}] + messages[1:] %}{{ messages|length }}{{ messages[0].role }}",
    "{{ messages[-1]['content'] }}{{ messages[0].content|length }}{{ tools }}{{ documents is none }}{{ add_generation_prompt }}",
    "{{ name if name is string and name|length > 3 else 'short' }}{{ 'a' if nothing is none else 'b' }}",
    "{{ (people|selectattr('name', 'equalto', 'Bob')|list)[0].age }}{{ (numbers|sort)[0] }}{{ people|map(attribute='age')|sum / people|length }}",
    "{{ '\\n'.join(quotes[:2]) }}{{ '%s: %s' | format('k', call.function.arguments) }}",
    "{{ call.function.arguments if call.function.arguments is string else call.function.arguments|tojson }}",
    "{%- for p in people %}{{- p.name }}{{ ', ' if not loop.last }}{% endfor -%}",
    "{%- set tool_names = [] -%}{%- for p in people -%}{%- set tool_names = tool_names + [p.name] -%}{%- endfor -%}{{ tool_names }}",
    "{{ raise_exception('Conversation roles must alternate') if no }}ok{{ raise_exception('now') }}",
    '{% set x = [1,2,3] %}{% set x = x[1:] + [4] %}{{ x }}',
    '{% for i in [1,2,3] %}{% set loop_x = i %}{% endfor %}{{ loop_x is defined }}',
    '{% for i in [1,2] -%}  {{ i }}  {%- endfor %}',
    '{% for x in [1,2,3] recursive %}{{ x }}{% endfor %}',
    "{% for x in 'ab' %}{% for y in [loop.index] %}{{ y }}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}",
    "{% for m in messages %}{% if m.role == 'user' %}{{ loop.index }}{{ m['content'] }}{% endif %}{% endfor %}",
    '{% for a in [1,2,3] if a > 1 %}{{ loop.index }}{{ loop.last }}{{ a }}{% else %}none{% endfor %}',
    '{% for a in [] if a > 1 %}x{% else %}none{% endfor %}',
    '{% for a in [1] if a > 1 %}x{% else %}none{% endfor %}',
    '{% set ns = namespace(found=false) %}{% for a in [1,2] %}{% if a == 2 %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.found }}',
    "{% set ns = namespace(a={'b': 1}) %}{{ ns.a.b }}{% set ns.a = ns.a.b + 1 %}{{ ns.a }}{{ ns }}",
    '{% macro m(x) -%}  {{ x }}  {%- endmacro %}[{{ m(1) }}]',
    "{% macro m(x='d') %}{{ x }}{% endmacro %}{{ m() }}{{ m(none) }}{{ m(x=missing) }}",
    "{% macro m(x, y=x ~ '!') %}{{ y }}{% endmacro %}{{ m('a') }}",
    '{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}',
    '{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}',
    "{% macro m() %}{{ caller() if caller else 'no' }}{% endmacro %}{{ m() }}",
    '{% macro m() %}{{ kwargs }}{{ varargs }}{% endmacro %}{{ m(1, a=2) }}',
    '{% macro m(a) %}{{ m.arguments }}{% endmacro %}{{ m(1) }}',
    '{% macro m(a=1, b) %}{% endmacro %}',
    '{% set x %}{% endset %}[{{ x }}]{{ x is string }}{{ x|length }}',
    "{% set x = 'a' %}{% set x %}{{ x }}b{% endset %}{{ x }}",
    '{% set a = b = 1 %}',
    '{% set a.b = 1 %}',
    "{% set 'a' = 1 %}",
    '{% set loop = 1 %}{{ loop }}',
    '{% set true = 1 %}',
    '{% set none %}x{% endset %}',
    "{% if 1 %}a{% else %}b{% endif %}{% if 0 %}a{% elif 0 %}b{% endif %}{% if '' or [] or {} or none or 0.0 %}x{% else %}y{% endif %}",
    '{% if x is defined and x %}a{% else %}b{% endif %}',
    '{% if not x %}a{% endif %}{% if x == 1 or y == 2 %}{% else %}b{% endif %}',
    '{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q is defined }}',
    '{% with a=1 %}{% with a=2 %}{{ a }}{% endwith %}{{ a }}{% endwith %}',
    '{% filter indent(2) %}a',
    'b{% endfilter %}',
    "{% filter upper|replace('A', 'x') %}abc{% endfilter %}",
    '{% call m() %}{% endcall %}',
    '{% block x %}y{% endblock %}',
    "{% include 'x' %}",
    "{% import 'x' as y %}",
    "{% extends 'x' %}",
    '{% break %}',
    '{% for x in [1,2,3,4] %}{% if x == 3 %}{% break %}{% elif x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}',
    '{% for x in [1,2] %}{% with %}{% if x == 1 %}{% continue %}{% endif %}{% endwith %}{{ x }}{% endfor %}',
    '{% for x in [1,2] %}{% for y in [1,2] %}{% if y == 2 %}{% break %}{% endif %}{{ x }}{{ y }}{% endfor %}{% endfor %}',
    "{{ '{{' }}{{ '}}' }}{{ '{%' }}",
    '{{ "a" "b" \'c\' }}',
    '{{ 1 }}{{- 2 -}} {{ 3 }}',
    '  y',
    '  {#- c -#}  z',
    '{%- if true -%}',
    ' a',
    '{%- endif -%}',
    ' b',
    '{{ \'\\\'\' }}{{ "\\"" }}{{ \'\\\\\' }}{{ \'\\t\' }}{{ \'\\d\' }}{{ \'é\\n\' }}',
    '{# {{ x }} {% y %} #}ok',
    '{% raw -%}  {{ x }}  {%- endraw %}y',
    '{%- set a = 1 %}',
    '{%- set b = 2 %}',
    '{{ a + b }}',
    '{% for x in [1] %}',
    '  {{ x }}',
    '  {% if x %}',
    '    y',
    '  {% endif %}',
    '{% endfor %}',
    '\t{% if true %}\tx{% endif %}\ty',
    'a{% if true %}',
    'b{% endif %}',
    'c',
    '{{ x }',
    '{{ x }} }}',
    '{% if %}',
    '{% endif %}',
    '{{ 1 + }}',
    '{{ a b }}',
    '{{ a..b }}',
    '{{ [1, 2 }}',
    '{% for x %}',
    '{% for x in y %}',
    '{{ x | }}',
    '{{ x is }}',
    "{{ 'a' if }}",
    '{{ a.b() .c }}',
    '{{ a[ ] }}',
    "{{ a['x' }}",
    '{% set %}',
    '{% macro %}',
    '{% macro x %}{% endmacro %}',
    '{{ (1 }}',
    '{{ )1 }}',
    '{{ 1 ? 2 }}',
    '{{ a && b }}',
    '{{ a || b }}',
    '{{ !a }}',
    '{{ a === b }}',
    '{{ a <> b }}',
    '{{ a := 1 }}',
    '{{ lambda x: x }}',
    '{{ [x for x in y] }}',
    '{{ {1, 2} }}',
    '{{ a; b }}',
    '{{ `a` }}',
    '{{ $a }}',
    "{{ 'é'|upper }}{{ '日本'|length }}{{ '日本'[0] }}",
    "{%- for message in messages -%}{{- '<|' + message['role'] + '|>\\n' + message['content']|trim + '<|end|>\\n' -}}{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}",
    '{% for x in [1] %}\n  {{ x }}\n  {% if x %}\n    y\n  {% endif %}\n{% endfor %}\n',
    'a{% if true %}\nb{% endif %}\nc\n\n',
    "{{ 'x' -}}\n  y\n  {#- c -#}  z\n",
    '\t{% if true %}\tx{% endif %}\ty\n  {# c #}\n  z\n  {{ 1 }}\n',
    '{% if true %}\r\nx\r\n{% endif %}\r\ny',
    '  {%- if true %} a {% endif -%}  \n  b',
    'x {%+ if true %}\n y{% endif %}',
    '\n\n{% set a = 1 %}\n\n{{ a }}\n\n',
]

# What our interpreter does not support, with a part of its message.
REFUSED = {
    "(x for x)": "", "'abc'|pprint": "not supported", "'a b'|wordwrap(1)": "not supported", "{'a': 1}|xmlattr": "not supported",
    "numbers|random": "not supported", "numbers|map('string')": "address", "name.upper": "address", "nested.items": "address", "range": "address",
    "lipsum": "address", "'é'.encode()": "not supported", "+1": "", "1, 2": "", "html|e + '<i>'": "escape last",
    "'{:>{}}'.format('a', 5)": "not supported", "'&amp;&lt;&nbsp;&copy;'|striptags": "not supported",
    "strftime_now('%')": "ends after", "self": "not supported", "self.x": "not supported",
    "'a'.maketrans('a', 'b')": "not supported", "'abc'.translate({97: 'b'})": "not supported",
    "{% macro m(a) %}{{ m.arguments }}{% endmacro %}{{ m(1) }}": "not supported",
    "{% set loop = 1 %}{{ loop }}": "reserved", "{% block x %}y{% endblock %}": "unknown statement",
    "{% autoescape true %}{{ html }}{% endautoescape %}": "not supported",
}


def recorded(source):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    variables = {**VARIABLES, "messages": messages, "tools": None, "documents": None, "add_generation_prompt": True}
    try:
        return {"text": _compile_jinja_template(source).render(**variables)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def main():
    logging.disable(logging.WARNING)
    expressions = [each.strip() for line in EXPRESSIONS.strip().splitlines() for each in line.split(" ## ")]
    rows = []
    for key, source in [(each, "{{ " + each + " }}") for each in expressions] + [(each, each) for each in TEMPLATES]:
        row = {"source": source, **recorded(source)}
        if key in REFUSED and "text" in row:
            # An address of this process is no expectation.
            row = {"source": source, "refused": REFUSED[key]}
        rows.append(row)
    document = {"recorded": f"jinja2 {jinja2.__version__}, transformers {transformers.__version__}", "variables": VARIABLES}
    head = json.dumps(document, ensure_ascii=False, indent=1)[:-2]
    body = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in rows)
    path = FOLDER / "jinja.json"
    path.write_text(f'{head},\n "rows": [\n{body}\n ]\n}}\n')
    print(f"{path.name}: {len(rows)} rows, {sum('refused' in row for row in rows)} refused", file=sys.stderr)


if __name__ == "__main__":
    main()
